"""Digests of a conversation, by which examples are compared: independent of template, tokenizer and file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gptcli import strict_json
from gptcli.data.messages import ASSISTANT

DIGEST_BYTES = 16
DIGEST = np.dtype([("high", "<u8"), ("low", "<u8")])
"""A digest as two numbers, as `later_occurrences` compares them."""


class Identity(NamedTuple):
    """The digests of an example, 16 bytes each."""

    whole: bytes
    """The digest of all messages up to the last one in the loss: examples with the same one are duplicates."""
    prompt: bytes
    """The digest of the messages before the last answer: examples with the same one are in the same split."""
    answer: bytes
    """The digest of the last answer."""
    beginnings: tuple[bytes, ...]
    """The digests of the messages up to each earlier answer: an example that begins another one is in its split."""


def identity_of(messages: Sequence[Mapping[str, Any]], tools: Any, *, learns_all: bool) -> Identity:
    """Return the digests of a conversation that has an answer; `learns_all`: with the messages after the last one."""
    last = max(number for number, message in enumerate(messages) if message["role"] == ASSISTANT)
    digest = hashlib.blake2b(canonical(tools), digest_size=DIGEST_BYTES)
    beginnings, prompt, whole = [], b"", b""
    for number, message in enumerate(messages):
        if number == last:
            prompt = digest.digest()
        digest.update(canonical(message))
        if message["role"] == ASSISTANT and number < last:
            beginnings.append(digest.digest())
        if number == last or (learns_all and number > last):
            whole = digest.digest()
    answer = hashlib.blake2b(canonical(messages[last]), digest_size=DIGEST_BYTES).digest()
    return Identity(whole, prompt, answer, tuple(beginnings))


def canonical(value: Any) -> bytes:
    """Return a value as JSON that is the same for equal values, with a byte at its end that JSON never has."""
    return strict_json.dumps(value, sort_keys=True).encode() + b"\0"
