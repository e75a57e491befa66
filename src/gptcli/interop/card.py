"""The model card (README.md) of an exported model: its data, size and losses, from the run's own files.

The card states only what was recorded: a line whose figure is missing is left out.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from gptcli import __version__, strict_json
from gptcli.console import shell_word
from gptcli.data.chat_encoder import LEARNT
from gptcli.data.prompts import example_prompt
from gptcli.figures import figure, figure_with_interval, scaled
from gptcli.interop.auto_tokenizer import tokenizer_class_for
from gptcli.interop.base_reference import HUB_PREFIX
from gptcli.interop.families import family_of
from gptcli.interop.generation_config import with_chat_ends
from gptcli.interop.load import LoadedModel
from gptcli.interop.native import NATIVE
from gptcli.manifest import require_unchanged
from gptcli.storage import read_regular

Json = dict[str, Any]
UNKNOWN_LICENSE = "unknown"
"""The hub's identifier for a model without a stated licence."""


def model_card(loaded: LoadedModel, *, name: str, license: str | None, dtype: str, opened: str) -> str:
    """Return the text of README.md.

    Args:
        name: the model's name in the card: USER/NAME on the hub, or the directory's name.
        license: the hub's identifier of its licence, such as `apache-2.0`.
        dtype: the dtype of the stored weights, for people.
        opened: which class of transformers opens it, or why none does, in words.
    """
    family, _ = family_of(loaded.model.config, spec := loaded.tokenizer.spec())
    has_class = family is not NATIVE
    tokenizer_class = tokenizer_class_for(family.name, spec) if has_class else None
    data = ModelCardData(
        license=license or UNKNOWN_LICENSE,
        library_name="transformers" if has_class else "gptcli",
        pipeline_tag="text-generation",
        tags=["gptcli", "pytorch", "causal-lm"],
    )
    record, prompt = read_record(loaded), example_prompt(loaded.tokenizer)
    is_chat = loaded.tokenizer.chat_template is not None
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name}",
        summary_line(loaded),
        section("Data", [*data_lines(record), *example_lines(record["data"].get("examples", {}))]),
        section("Training", [*method_lines(record["config"]), *training_lines(record, loaded)]),
        section("Conversations", conversation_lines(loaded)),
        section("Size", size_lines(loaded, dtype)),
        section("Use", [usage(name, prompt, tokenizer_class, is_chat=is_chat), sentence(opened)]),
        section("Licence", [licence_line(license)]),
        f"Written by gptcli {__version__}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def sentence(words: str) -> str:
    """Return words as a sentence."""
    return f"{words[0].upper()}{words[1:]}".rstrip(".") + "."


def read_record(loaded: LoadedModel) -> dict[str, Json]:
    """Return the run's records by file; tables are empty if they are missing or the model is not a run."""
    names = {"data": "data.json", "summary": "summary.json", "config": "run.toml"}
    if loaded.run is None:
        return {record: {} for record in names}
    require_unchanged(loaded.run.path, *names.values())
    return {record: read_table(loaded.run.path / name) for record, name in names.items()}


def read_table(path: Path) -> Json:
    """Return the table in a JSON or TOML file; empty if there is none that can be read."""
    try:
        content = read_regular(path).decode()
        value = tomllib.loads(content) if path.suffix == ".toml" else strict_json.parse(content)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def summary_line(loaded: LoadedModel) -> str:
    """Return the sentence that says what the model is."""
    config, tokenizer = loaded.model.config, loaded.tokenizer
    does = "continues text" if tokenizer.chat_template is None else "answers messages"
    return (
        f"A decoder-only Transformer with {loaded.model.parameter_count():,} parameters that {does}, "
        f"{config.context_length:,} tokens of context, and a tokenizer of kind `{tokenizer.name}` with "
        f"{config.vocab_size:,} tokens."
    )


def section(title: str, lines: Iterator[str] | list[str]) -> str:
    """Return a section, or an empty text if it has no lines."""
    body = "\n".join(lines)
    return f"## {title}\n\n{body}" if body else ""


def data_lines(record: dict[str, Json]) -> Iterator[str]:
    """Yield lines about the training data. Only the last part of a path on this disk is named."""
    data, corpus = record["data"], record["config"].get("data", {}).get("corpus", [])
    if corpus:
        names = (source if source.startswith(("hf:", "python:")) else Path(source).name for source in corpus)
        yield f"- Corpus: {', '.join(f'`{name}`' for name in names)}"
    for split, title in (("train", "Training split"), ("val", "Validation split")):
        if counts := data.get(split):
            tokens = data.get(f"{split}_tokens")
            yield (
                f"- {title}: {counts['documents']:,} document{'s' if counts['documents'] != 1 else ''}, "
                f"{counts['bytes']:,} bytes" + (f", {tokens:,} tokens" if tokens else "")
            )
    if rule := data.get("split_rule"):
        yield f"- Validation is {rule}."


def example_lines(examples: Json) -> Iterator[str]:
    """Yield lines about the examples of a fine-tuning, and the tokens of them that the loss is of."""
    if not examples:
        return
    for split, title in (("train", "Trained on"), ("val", "Validated on")):
        if counts := examples.get(split):
            yield (
                f"- {title} {counts['examples']:,} examples with {counts['tokens']:,} tokens, of which "
                f"{counts['tokens_in_loss']:,} are in the loss"
            )
    if learnt := LEARNT.get(str(examples.get("loss_on"))):
        yield f'- Loss mask: `data.loss_on = "{examples["loss_on"]}"`, {learnt}'
    left_out = {"cut": "cut at the context", "too_long": "too long", "duplicates": "duplicates"}
    if found := [f"{examples[key]:,} {words}" for key, words in left_out.items() if examples.get(key)]:
        yield f"- Examples that were left out or cut: {', '.join(found)}"


def method_lines(config: Json) -> Iterator[str]:
    """Yield lines about the base model and the method of a fine-tuning. Only the last part of a path is named."""
    base = config.get("train", {}).get("init_from")
    if not base:
        return
    yield f"- Base model: `{base if base.startswith(HUB_PREFIX) else Path(base).name}`"
    adapter, objective = config.get("adapter", {}), config.get("objective", {})
    method = "all weights are trained"
    if adapter.get("name") == "lora":
        form = "DoRA" if adapter.get("dora") else "LoRA"
        targets = {"all": "all matrices of the blocks"}.get(adapter["targets"], f"the matrices of {adapter['targets']}")
        method = f"{form} of rank {adapter['rank']}, alpha {adapter['alpha']:g}, at {targets}"
    if objective.get("name") == "dpo":
        method += f"; preferences by DPO, beta {objective['beta']:g}"
    yield f"- Method: {method}"


def conversation_lines(loaded: LoadedModel) -> Iterator[str]:
    """Yield lines about the chat template, if there is one."""
    if loaded.tokenizer.chat_template is None:
        return
    ends = sorted(with_chat_ends(loaded.tokenizer, loaded.stop_ids))
    names = ", ".join(f"`{loaded.tokenizer.token_text(id)}`" for id in ends)
    yield "- Chat template: `chat_template.jinja`, which `tokenizer.apply_chat_template` renders"
    yield f"- An answer ends at one of {names} (`generation_config.json`)"


def training_lines(record: dict[str, Json], loaded: LoadedModel) -> Iterator[str]:
    """Yield lines about the training and its losses."""
    summary, config = record["summary"], record["config"]
    if optimizer := config.get("optim", {}).get("name"):
        yield f"- Optimizer: {optimizer}, peak learning rate {config['optim'].get('lr')}"
    if summary.get("steps"):
        yield f"- {summary['steps']:,} steps, {summary['tokens']:,} tokens, {summary['train_seconds']:,.0f} seconds"
    yield from validation_lines(summary)
    if isinstance(loss := summary.get("train_loss"), float):
        yield f"- Training loss at the end: {loss:.4f} nats a token"
    if summary:
        which = loaded.source.removeprefix(f"run {loaded.run.path}, ") if loaded.run else loaded.source
        yield f"- The losses are of the run's best weights; the weights here are of {which}."


def validation_lines(summary: Json) -> Iterator[str]:
    """Yield the validation loss with its 95 % interval, if the run recorded one, and the digits that it supports."""
    loss, bits, found = (summary.get(key) for key in ("val_loss", "val_bits_per_byte", "val_loss_interval"))
    if not isinstance(loss, float):
        return
    low, high = found or (loss, loss)
    interval = (low, high) if found else None
    perplexity, *ends = (math.exp(min(nats, 700)) for nats in (loss, low, high))
    perplexities = (ends[0], ends[1]) if found else None
    yield (
        f"- Validation loss: {figure_with_interval(loss, interval)} nats a token "
        f"(perplexity {figure_with_interval(perplexity, perplexities)})"
    )
    if isinstance(bits, float):
        yield f"- Validation bits per byte: {figure(bits, scaled(interval, bits / loss if loss else 0.0))}"


def size_lines(loaded: LoadedModel, dtype: str) -> Iterator[str]:
    """Yield lines about the shape."""
    config = loaded.model.config
    yield f"- Parameters: {loaded.model.parameter_count():,}, stored in {dtype}"
    yield f"- Layers: {config.n_layer}, width {config.n_embd}, MLP width {config.mlp_width}"
    yield f"- Heads: {config.n_head} of width {config.head_width}, {config.kv_heads} for keys and values"


def usage(name: str, prompt: str, tokenizer_class: str | None, *, is_chat: bool = False) -> str:
    """Return commands that run unchanged if the model is in the current directory, or on the hub, under `name`.

    Args:
        prompt: a prompt that the tokenizer represents.
        tokenizer_class: the class of transformers that opens the tokenizer; None if there is none for the model.
        is_chat: whether the prompt is a message to be answered.
    """
    place = f"{HUB_PREFIX}{name}" if "/" in name else name
    command = f"```sh\ngptcli generate {place} {'--chat ' if is_chat else ''}{shell_word(prompt)}\n```"
    if tokenizer_class is None:
        return command + "\n"
    read = f'inputs = tokenizer({strict_json.dumps(prompt)}, return_tensors="pt", return_token_type_ids=False)\n'
    show = "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=100)[0]))"
    if is_chat:
        read = (
            f'messages = [{{"role": "user", "content": {strict_json.dumps(prompt)}}}]\n'
            "inputs = tokenizer.apply_chat_template(\n"
            '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"\n)\n'
            'answer = model.generate(**inputs, max_new_tokens=100)[0, inputs["input_ids"].shape[1] :]\n'
        )
        show = "print(tokenizer.decode(answer, skip_special_tokens=True))"
    code = (
        f"```python\nfrom transformers import AutoModelForCausalLM, {tokenizer_class}\n\n"
        f'tokenizer = {tokenizer_class}.from_pretrained("{name}")\n'
        f'model = AutoModelForCausalLM.from_pretrained("{name}")\n'
        f"{read}{show}\n```"
    )
    return f"{code}\n\n{command}\n"


def licence_line(license: str | None) -> str:
    """Return the sentence about the licence."""
    return f"`{license}`" if license else "Not stated when the model was exported: ask its author before you use it."
