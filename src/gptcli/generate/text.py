"""Prompts in, texts out: the prompts are encoded, the engine draws ids, and these become text as they are drawn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gptcli.console import say
from gptcli.errors import CheckpointError, DataError, TokenizerError
from gptcli.generate.config import GenerationConfig
from gptcli.generate.engine import Engine
from gptcli.generate.listener import SILENT, Listener
from gptcli.generate.requests import require_known_ids
from gptcli.generate.sample import Completion, SampleMaker
from gptcli.models.gpt import GPT

if TYPE_CHECKING:
    from gptcli.tokenizer.tokenizer import Tokenizer


class Prompt(NamedTuple):
    """The ids that the model reads before it generates, at least one, and what they are of."""

    ids: list[int]
    content: str | list[dict[str, Any]]
    """A text, or the messages of a conversation."""

    def report(self) -> dict[str, Any]:
        """Return {"prompt"} or {"messages"} for JSON."""
        return {"prompt" if isinstance(self.content, str) else "messages": self.content}


class GeneratedPrompt(NamedTuple):
    """A prompt with its samples."""

    prompt: Prompt
    completions: list[Completion]

    def report(self) -> dict[str, Any]:
        """Return the prompt, and "completions", a list of their reports, for JSON."""
        return {**self.prompt.report(), "completions": [completion.report() for completion in self.completions]}


class Generation(NamedTuple):
    """The samples of all prompts, and the speed of generating them."""

    prompts: list[GeneratedPrompt]
    tokens_per_second: float
    """Tokens of all samples over the whole time, which includes reading the prompts."""

    @property
    def token_count(self) -> int:
        """Tokens drawn in all samples together."""
        return sum(len(completion.tokens) for prompt in self.prompts for completion in prompt.completions)

    def report(self, *, several: bool) -> dict[str, Any]:
        """Return the report of the one prompt, or {"results": [...]} of `several`, and the speed, for JSON."""
        reports = [prompt.report() for prompt in self.prompts]
        return ({"results": reports} if several else reports[0]) | {"tokens_per_second": self.tokens_per_second}


def generate(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    config: GenerationConfig,
    listener: Listener = SILENT,
) -> Generation:
    """Generate `config.num_samples` texts after every text, each up to the token that ended texts in training.

    Raises:
        DataError, CheckpointError, OutOfMemoryError: as `encode_prompts` and `complete`.
    """
    encoded = encode_prompts(tokenizer, prompts, config)
    engine = Engine(model, config.engine_config([ids for ids, _ in encoded]))
    return complete(engine, SampleMaker(tokenizer, config, tokenizer.framing.stop_ids), encoded, listener)


def complete(engine: Engine, maker: SampleMaker, prompts: Sequence[Prompt], listener: Listener = SILENT) -> Generation:
    """Generate as many texts as the settings of `maker` say for every prompt.

    Sample i of prompt p has the number p * num_samples + i. Samples advance side by side, and `listener` receives
    their characters as they become certain.

    Raises:
        UsageError: a setting names an id that the model lacks.
        DataError: a prompt is too long with overflow "stop", or a grammar cannot go on.
        CheckpointError: the model and the tokenizer do not belong together, or the weights are damaged.
        OutOfMemoryError: not even one sample fits on the device.
    """
    config = maker.config
    require_known_ids(config, engine.model.config.vocab_size)
    for i, prompt in enumerate(prompts):
        check_prompt(prompt.ids, engine.model, config, place(i, prompts))
    samples = [maker.sample(prompt.ids, i) for prompt in prompts for i in range(config.num_samples)]
    numbers = {sample.request: number for number, sample in enumerate(samples)}
    began = time.perf_counter()
    for request in engine.run([sample.request for sample in samples]):
        number = numbers[request]
        for grown in samples[number].take():
            if grown.text:
                listener.on_text(number, grown.text)
        if request.finish_reason is not None:
            listener.on_end(number)
    elapsed = time.perf_counter() - began
    count = sum(sample.request.count for sample in samples)
    each = config.num_samples
    completions = [sample.completion() for sample in samples]
    return Generation(
        [GeneratedPrompt(prompt, completions[i * each : (i + 1) * each]) for i, prompt in enumerate(prompts)],
        count / elapsed,
    )


def place(index: int, prompts: Sequence[Any]) -> str:
    """Return the name of the prompt at `index` in messages."""
    return "the prompt" if len(prompts) == 1 else f"prompt {index + 1}"


def encode_prompts(tokenizer: Tokenizer, texts: Sequence[str], config: GenerationConfig) -> list[Prompt]:
    """Return the prompts of texts.

    Raises:
        DataError, TokenizerError: a text cannot be used with this tokenizer.
    """
    return [Prompt(encode_prompt(tokenizer, text, config, place(i, texts)), text) for i, text in enumerate(texts)]


def encode_prompt(tokenizer: Tokenizer, prompt: str, config: GenerationConfig, name: str) -> list[int]:
    """Return the ids that the model reads before it generates; at least one.

    Raises:
        DataError: the tokenizer cannot represent the prompt, or it is empty and no token begins a document.
    """
    ids = represented(tokenizer, prompt, name)
    before = tokenizer.framing.before
    if config.document_start or not ids:
        if not before:
            why = "it is empty" if not ids else "document_start is set"
            raise DataError(
                f"{name} needs a token that begins a document ({why}) and the model's training had none",
                "give some text",
            )
        return [*before, *ids]
    return [*before, *ids] if tokenizer.adds_bos else ids


def represented(tokenizer: Tokenizer, text: str, name: str) -> list[int]:
    """Return the ids of a text of the prompt that has this name.

    Raises:
        TokenizerError: the tokenizer cannot represent the text.
    """
    try:
        tokenizer.require_representable(text)
        return tokenizer.encode(text)
    except TokenizerError as error:
        raise TokenizerError(f"{name}: {error}") from error


def check_prompt(ids: Sequence[int], model: GPT, config: GenerationConfig, name: str) -> None:
    """Raise an error if the prompt does not suit the model, and print a note if a part of it will not be read."""
    if max(ids) >= model.config.vocab_size:
        raise CheckpointError(
            f"the tokenizer gives id {max(ids)}, and the model has {model.config.vocab_size} tokens",
            "use the tokenizer that the model was trained with",
        )
    context = model.config.context_length
    if len(ids) <= context:
        return
    if config.overflow == "stop":
        raise DataError(
            f"{name} has {len(ids)} tokens, more than the model's context of {context}",
            "shorten it, or let it slide (overflow slide)",
        )
    say(f"{name} has {len(ids)} tokens: only its last {context} are read, the model's context")
