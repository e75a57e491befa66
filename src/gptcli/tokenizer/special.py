"""Which ids begin a document, end it, and stand for the unknown. Knows token names, not what they are used for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tokenizers

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<unk>"

EOT_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]")
BOS_NAMES = ("<|begin_of_text|>", "<s>", "<bos>", "<|bos|>", "[BOS]", "<|startoftext|>", END_OF_TEXT)
"""Names to go by, in this order, where no tokenizer_config.json names the token."""


def end_of_text_id(backend: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> int | None:
    """The token that ends a document: tokenizer_config.json's `eos_token`, otherwise one of a known name."""
    return named_id(backend, settings["eos_token"]) if "eos_token" in settings else first_id(backend, EOT_NAMES)


def beginning_id(backend: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> int | None:
    """The token that begins a document: tokenizer_config.json's `bos_token`, otherwise one of a known name.

    <|endoftext|> stands between documents and so does both, as in GPT-2.
    """
    return named_id(backend, settings["bos_token"]) if "bos_token" in settings else first_id(backend, BOS_NAMES)


def unknown_id(backend: tokenizers.Tokenizer, spec: Mapping[str, Any]) -> int | None:
    """The id that the model gives to what its vocabulary lacks; none for byte-level ones, which lack nothing."""
    model = spec["model"]
    return model["unk_id"] if "unk_id" in model else named_id(backend, model.get("unk_token"))


def named_id(backend: tokenizers.Tokenizer, token: str | Mapping[str, Any] | None) -> int | None:
    """The id of a token given by its text or, as in tokenizer_config.json, by a table with its `content`."""
    name = token.get("content") if isinstance(token, Mapping) else token
    return backend.token_to_id(name) if isinstance(name, str) else None


def first_id(backend: tokenizers.Tokenizer, names: tuple[str, ...]) -> int | None:
    return next((known for name in names if (known := backend.token_to_id(name)) is not None), None)
