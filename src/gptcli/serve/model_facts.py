"""What a served model is, for people who did not train it: from the model itself and from the records of its run.

Nothing here holds a path of the machine: of a corpus and of a base model only the last part of the path is named.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from gptcli.config import Config
from gptcli.data.prompts import example_prompt
from gptcli.data.source_names import corpora, public_name
from gptcli.figures import figure, scaled
from gptcli.interop.card import read_record
from gptcli.session import Session

Json = dict[str, Any]
UNITS = ((1e9, "billion"), (1e6, "million"))


class ModelFacts(Config):
    """The facts on a model that `/v1/models` lists under `gptcli`, and that the page shows.

    A fact is None, or an empty list, if it was not recorded.
    """

    FREE_TEXTS = frozenset(("description", "corpus", "base", "stop_tokens", "example"))

    description: str
    """A sentence that says what the model is and what it was trained on."""
    chat: bool
    """Whether it answers messages, since its tokenizer has a chat template; otherwise it only continues text."""
    parameters: int
    context: int
    """Most tokens that the model reads at once."""
    vocabulary: int
    tokenizer: str
    """The kind of the tokenizer: `char`, `byte`, `bpe` or that of a foreign model."""
    stop_ids: tuple[int, ...]
    """The tokens that end an answer or a text."""
    stop_tokens: tuple[str, ...]
    """The same tokens as they are written."""
    corpus: tuple[str, ...]
    """The names of the files, folders or data sets that it was trained on."""
    training_bytes: int | None
    training_tokens: int | None
    """Tokens of the training split, each counted once."""
    examples: int | None
    """Examples that a fine-tuned model was trained on."""
    base: str | None
    """The name of the model that a fine-tuning began from."""
    step: int | None
    """The step of the checkpoint that is served."""
    bits_per_byte: float | None
    """Of the validation text, with the digits that its confidence interval supports."""
    validation_loss: float | None
    """Nats a token of the validation split; of a fine-tuned model, of the tokens that it learns to write."""
    example: str
    """A prompt to try the model with that quotes no training text."""


def facts_of(session: Session, stop_ids: Collection[int]) -> ModelFacts:
    """Return the facts on a model whose texts end at `stop_ids`.

    Raises:
        CheckpointError: a record of the run is damaged.
    """
    record, model, tokenizer = read_record(session), session.model, session.tokenizer
    data, summary, config = record["data"], record["summary"], record["config"]
    base, corpus, parameters = base_of(config), tuple(corpora(config)), model.parameter_count()
    is_chat = tokenizer.chat_template is not None
    loss, bits = losses(summary)
    return ModelFacts(
        description=describe(parameters, corpus, base, is_chat=is_chat),
        chat=is_chat,
        parameters=parameters,
        context=model.config.context_length,
        vocabulary=model.config.vocab_size,
        tokenizer=tokenizer.name,
        stop_ids=tuple(sorted(stop_ids)),
        stop_tokens=tuple(tokenizer.token_text(id) for id in sorted(stop_ids)),
        corpus=corpus,
        training_bytes=count(data.get("train", {}), "bytes"),
        training_tokens=count(data, "train_tokens"),
        examples=count(data.get("examples", {}).get("train", {}), "examples"),
        base=base,
        step=count(summary, "best_step") if session.step is None else session.step,
        bits_per_byte=bits,
        validation_loss=loss,
        example=example_prompt(tokenizer),
    )


def describe(parameters: int, corpus: tuple[str, ...], base: str | None, *, is_chat: bool) -> str:
    """Return a sentence that says what a model is and what it was trained on."""
    does = "answers messages" if is_chat else "continues text"
    sentence = f"A language model with {size(parameters)} parameters that {does}"
    if corpus:
        named = corpus[0] if len(corpus) == 1 else f"{', '.join(corpus[:-1])} and {corpus[-1]}"
        sentence += f", trained on {named}"
    if base:
        sentence += f", starting from {base}"
    return f"{sentence}."


def size(parameters: int) -> str:
    """Return a number of parameters in words, with two digits or those of a whole number."""
    for unit, word in UNITS:
        if parameters >= unit:
            scaled = parameters / unit
            return f"{scaled:.1f} {word}" if scaled < 10 else f"{scaled:.0f} {word}"
    return f"{parameters:,}"


def base_of(config: Json) -> str | None:
    """Return the name of the model that a training began from; None if it began from random weights."""
    base = config.get("train", {}).get("init_from")
    return public_name(base) if base else None


def losses(summary: Json) -> tuple[float | None, float | None]:
    """Return the validation loss and the bits per byte of a run's summary, rounded to the digits that are certain."""
    loss, bits, found = (summary.get(key) for key in ("val_loss", "val_bits_per_byte", "val_loss_interval"))
    if not isinstance(loss, float):
        return None, None
    interval = (found[0], found[1]) if found else None
    rounded_loss = float(figure(loss, interval).replace(",", ""))
    if not isinstance(bits, float):
        return rounded_loss, None
    bits_interval = scaled(interval, bits / loss if loss else 0.0)
    return rounded_loss, float(figure(bits, bits_interval).replace(",", ""))


def count(table: Json, key: str) -> int | None:
    """Return a whole number of a record, or None if the record has none."""
    value = table.get(key)
    return value if isinstance(value, int) else None
