"""The ids that begin a document, end it, and stand for unknown text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tokenizers

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<unk>"

EOS_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]")
"""Names of the token that ends a document, in the order in which they are tried where no tokenizer_config.json names
it."""
BOS_NAMES = ("<|begin_of_text|>", "<s>", "<bos>", "<|bos|>", "[BOS]", "<|startoftext|>", END_OF_TEXT)
"""Names of the token that begins a document, in the order in which they are tried."""


def find_eos_id(backend: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> int | None:
    """Return the token that ends a document: tokenizer_config.json's `eos_token`, otherwise one of a known name."""
    return named_id(backend, settings["eos_token"]) if "eos_token" in settings else first_id(backend, EOS_NAMES)


def find_bos_id(backend: tokenizers.Tokenizer, settings: Mapping[str, Any], end: int | None) -> int | None:
    """Return the token that begins a document: tokenizer_config.json's `bos_token`, otherwise one of a known name.

    <|endoftext|> both ends one document and begins the next, as in GPT-2. If the file names the token that ends a
    document (`end`) but none that begins one, a known name is not evidence that the model has seen that token: then it
    is `end`, or the token that the tokenizer itself puts before a text.
    """
    if "bos_token" in settings:
        return named_id(backend, settings["bos_token"])
    known = first_id(backend, BOS_NAMES)
    return known if "eos_token" not in settings or end in (None, known) else added_before(backend)


def added_before(backend: tokenizers.Tokenizer) -> int | None:
    """Return the token that the tokenizer's post-processor puts before a text, or None."""
    text, whole = (backend.encode("a", add_special_tokens=added).ids for added in (False, True))
    return whole[0] if whole and whole[:1] != text[:1] else None


def find_unk_id(backend: tokenizers.Tokenizer, spec: Mapping[str, Any]) -> int | None:
    """Return the id that the model uses for what its vocabulary lacks; None for byte-level models, which lack
    nothing.
    """
    model = spec["model"]
    return model["unk_id"] if "unk_id" in model else named_id(backend, model.get("unk_token"))


def named_id(backend: tokenizers.Tokenizer, token: str | Mapping[str, Any] | None) -> int | None:
    """Return the id of a token given by its text or, as in tokenizer_config.json, by a table with its `content`."""
    name = token.get("content") if isinstance(token, Mapping) else token
    return backend.token_to_id(name) if isinstance(name, str) else None


def first_id(backend: tokenizers.Tokenizer, names: tuple[str, ...]) -> int | None:
    """Return the id of the first of these tokens that the vocabulary has, or None."""
    return next((known for name in names if (known := backend.token_to_id(name)) is not None), None)
