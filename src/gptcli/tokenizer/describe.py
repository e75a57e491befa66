"""A description of a tokenizer in figures, for people and scripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gptcli.errors import TokenizerError
from gptcli.tokenizer.tokenizer import Tokenizer

MAX_DIGITS = 100
"""Digits of an id at most. No vocabulary needs more, and Python converts no number of several thousand digits."""
LONGEST_SHOWN = 10


def describe(tokenizer: Tokenizer, text: str | None = None) -> dict[str, Any]:
    """Return kind, size, special and longest tokens; with a `text`, also how many bytes of it a token covers.

    The result can be written as JSON.
    """
    ordinary = [id for id in tokenizer.backend.get_vocab().values() if id not in tokenizer.special_ids]
    longest = sorted(((tokenizer.token_text(id), id) for id in ordinary), key=lambda pair: (-len(pair[0]), pair[1]))
    description = {
        "kind": tokenizer.name,
        "vocab_size": tokenizer.vocab_size,
        "special_tokens": {tokenizer.token_text(id): id for id in sorted(tokenizer.special_ids)},
        "eot_id": tokenizer.eos_id,
        "bos_id": tokenizer.bos_id,
        "unk_id": tokenizer.unk_id,
        "longest_tokens": [token for token, _ in longest[:LONGEST_SHOWN]],
        "fingerprint": tokenizer.fingerprint,
    }
    return description if text is None else description | measure(tokenizer, text)


def measure(tokenizer: Tokenizer, text: str) -> dict[str, Any]:
    """Return how well the vocabulary fits `text`: the more bytes a token covers, the shorter the sequence of the same
    text.
    """
    ids = tokenizer.encode_batch([text])[0]
    size = len(text.encode())
    return {
        "bytes": size,
        "tokens": len(ids),
        "bytes_per_token": size / len(ids) if len(ids) else None,
        "distinct_tokens": len(set(ids.tolist())),
        "unknown_tokens": 0 if tokenizer.unk_id is None else int((ids == tokenizer.unk_id).sum()),
        "round_trip_exact": tokenizer.decode(ids) == text,
    }


def for_people(description: Mapping[str, Any]) -> str:
    """Return a description as text, with one line for each figure."""
    words = {
        "kind": "kind",
        "vocab_size": "vocabulary",
        "special_tokens": "special tokens",
        "eot_id": "end of text",
        "bos_id": "beginning",
        "unk_id": "unknown",
        "longest_tokens": "longest tokens",
        "bytes": "bytes of the text",
        "tokens": "tokens",
        "bytes_per_token": "bytes per token",
        "distinct_tokens": "distinct tokens",
        "unknown_tokens": "unknown tokens",
        "round_trip_exact": "exact round trip",
        "fingerprint": "fingerprint",
    }
    return "\n".join(f"{word:<18} {value_text(description[key])}" for key, word in words.items() if key in description)


def value_text(value: Any) -> str:
    """Return a value of a description as text."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3f}"
        case int():
            return f"{value:,}"
        case dict():
            return ", ".join(f"{name} {id:,}" for name, id in value.items()) or "none"
        case list():
            return " ".join(repr(item) for item in value)
    return str(value)


def parse_ids(text: str) -> list[int]:
    """Return the ids written in `text`, separated by white space or commas.

    Raises:
        TokenizerError: it holds something else.
    """
    ids = []
    for word in text.replace(",", " ").split():
        if not (word.isascii() and word.isdigit() and len(word) <= MAX_DIGITS):
            raise TokenizerError(
                f"{word[:MAX_DIGITS]!r} is not an id", "give whole numbers separated by spaces or commas"
            )
        ids.append(int(word))
    return ids
