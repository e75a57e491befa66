"""Digests of a conversation, by which examples are compared: independent of tokenizer and file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gptcli import strict_json
from gptcli.data.chat import REASONING
from gptcli.data.messages import ASSISTANT

DIGEST_BYTES = 16
DIGEST = np.dtype([("high", "<u8"), ("low", "<u8")])
"""A digest as two numbers, as `later_occurrences` compares them."""

ALL_KEYS = re.compile(
    r"\b(tojson|items|values|dictsort|xmlattr|attribute|selectattr|pprint|string)\b|\[\s*[A-Za-z_]\w*\s*\]"
)
"""Matches the parts of a template that may read keys without their names: filters, methods, and a variable in brackets.

More examples count as different where it matches too much, and none is lost."""


class Identity(NamedTuple):
    """The digests of an example, 16 bytes each."""

    whole: bytes
    """The digest of all messages up to the last one in the loss: examples with the same one are duplicates. It has
    their weights too, if one is 0."""
    prompt: bytes
    """The digest of the messages before the last answer: examples with the same one are in the same split."""
    spaced: bytes
    """The same with each run of white space as one space: prompts that differ in nothing else are in one split too."""
    answer: bytes
    """The digest of the last answer."""
    beginnings: tuple[bytes, ...]
    """The digests of the messages up to each earlier answer: an example that begins another one is in its split."""


def identity_of(messages: Sequence[Mapping[str, Any]], tools: Any, *, learns_all: bool, template: str = "") -> Identity:
    """Return the digests of a conversation that has an answer.

    Args:
        messages: the messages.
        tools: the tools that the assistant may call.
        learns_all: whether the messages after the last answer count too.
        template: the source of the chat template. Keys of messages that it does not read, such as an id or a time, make
            no difference.
    """
    weights = [message.get("weight") != 0 for message in messages]
    messages = [read_by(template, message) for message in messages]
    last = max(number for number, message in enumerate(messages) if message["role"] == ASSISTANT)
    digest, spaced = (hashlib.blake2b(canonical(tools), digest_size=DIGEST_BYTES) for _ in range(2))
    beginnings, prompt, whole = [], b"", b""
    for message in messages[:last]:
        spaced.update(canonical({**message, "content": " ".join(message["content"].split())}))
    for number, message in enumerate(messages):
        if number == last:
            prompt = digest.digest()
        digest.update(canonical(message))
        if message["role"] == ASSISTANT and number < last:
            beginnings.append(digest.digest())
        if number == last or (learns_all and number > last):
            whole = digest.digest()
    if not all(weights):
        whole = hashlib.blake2b(whole + canonical(weights), digest_size=DIGEST_BYTES).digest()
    answer = hashlib.blake2b(canonical(messages[last]), digest_size=DIGEST_BYTES).digest()
    return Identity(whole, prompt, spaced.digest(), answer, tuple(beginnings))


def read_by(template: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a template may read of a message, the reasoning under one name."""
    known = {"role", "content", "tool_calls"}
    found = {key: value for key, value in message.items() if key in known or is_read(template, key)}
    reasoning = next((message[key] for key in REASONING if message.get(key)), None)
    if reasoning is not None:
        found = {key: value for key, value in found.items() if key not in REASONING} | {REASONING[0]: reasoning}
    if found.get("tool_calls") and not is_read(template, "id"):
        found["tool_calls"] = [
            {key: value for key, value in call.items() if key != "id"} if isinstance(call, Mapping) else call
            for call in found["tool_calls"]
        ]
    return found


def is_read(template: str, key: str) -> bool:
    """Return whether a template may read a key of an object: by its name, or with all keys of the object."""
    return ALL_KEYS.search(template) is not None or re.search(rf"\b{re.escape(key)}\b", template) is not None


def canonical(value: Any) -> bytes:
    """Return a value as JSON that is the same for equal values, with a byte at its end that JSON never has."""
    return strict_json.dumps(value, sort_keys=True).encode() + b"\0"
