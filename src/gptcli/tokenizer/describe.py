"""What a tokenizer is, in figures for people and scripts. Knows no files."""

from __future__ import annotations

from typing import Any

from gptcli.tokenizer.tokenizer import Tokenizer

LONGEST_SHOWN = 10


def describe(tokenizer: Tokenizer, text: str | None = None) -> dict[str, Any]:
    """Kind, size, special tokens and longest tokens; on a `text`, also how many bytes a token covers. JSON-able."""
    ordinary = [id for id in tokenizer.backend.get_vocab().values() if id not in tokenizer.special_ids]
    shown = sorted(((tokenizer.token_text(id), id) for id in ordinary), key=lambda pair: (-len(pair[0]), pair[1]))
    description = {
        "kind": tokenizer.name,
        "vocab_size": tokenizer.vocab_size,
        "special_tokens": {tokenizer.token_text(id): id for id in sorted(tokenizer.special_ids)},
        "eot_id": tokenizer.eot_id,
        "bos_id": tokenizer.bos_id,
        "unk_id": tokenizer.unk_id,
        "longest_tokens": [token for token, _ in shown[:LONGEST_SHOWN]],
        "fingerprint": tokenizer.fingerprint,
    }
    return description | (measure(tokenizer, text) if text else {})


def measure(tokenizer: Tokenizer, text: str) -> dict[str, Any]:
    """How well the vocabulary fits `text`: higher bytes a token are a shorter sequence for the same text."""
    ids = tokenizer.encode_batch([text])[0]
    size = len(text.encode())
    return {
        "bytes": size,
        "tokens": len(ids),
        "bytes_per_token": size / max(1, len(ids)),
        "distinct_tokens": len(set(ids.tolist())),
        "unknown_tokens": 0 if tokenizer.unk_id is None else int((ids == tokenizer.unk_id).sum()),
        "round_trip_exact": tokenizer.decode(ids) == text,
    }
