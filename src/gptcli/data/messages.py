"""Messages of a conversation, checked and brought into the form that chat templates expect.

A message is {"role": ..., "content": a text} with a role of ROLES; one of the assistant may also have "tool_calls" and
further texts such as "reasoning_content". Messages are never reordered, joined or left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gptcli import strict_json
from gptcli.data.conversations import MESSAGE_FIELDS, as_message
from gptcli.data.fields import described, refuse_repeated
from gptcli.errors import DataError

ASSISTANT, USER = "assistant", "user"
ROLES = ("system", "developer", USER, ASSISTANT, "tool")
SYNONYMS = {
    **dict.fromkeys(("human",), "user"),
    **dict.fromkeys(("gpt", "bot", "model", "ai", "chatgpt"), "assistant"),
    **dict.fromkeys(("function", "observation", "ipython"), "tool"),
}
"""Other names of roles, in lower case; upper case and spaces around do not matter."""
FUNCTION_CALL = "function_call"
"""The role of a call in ShareGPT, and the key of one in OpenAI's older form."""

Message = dict[str, Any]


def checked_messages(messages: Any, place: object) -> list[Message]:
    """Return a list of messages in the form that chat templates expect.

    Keys without a value are left out, since data sets in columns give every message the keys of all. An integer is its
    digits, null an empty text, and parts that are text are joined.

    Raises:
        DataError: it is not a list of messages, a role is unknown, or a content is not text.
    """
    if isinstance(messages, str) and messages.lstrip().startswith("["):  # a column of CSV
        messages = parsed(messages, place)
    if not isinstance(messages, list) or not messages:
        what = "an empty list" if messages == [] else described(messages)
        raise DataError(
            f"{place} holds {what} where a list of messages is needed",
            'write a list of {"role": "user", "content": "..."} tables',
        )
    return [checked_message(message, f"message {number} of {place}") for number, message in enumerate(messages, 1)]


def checked_message(turn: Any, place: object) -> Message:
    """Return one message in the form that chat templates expect."""
    message = as_message(turn)
    if not isinstance(message, Mapping) or "role" not in message:
        what = f"has the keys {', '.join(map(str, turn))}" if isinstance(turn, Mapping) else f"is {described(turn)}"
        raise DataError(f"{place} {what}", 'write it as {"role": "user", "content": "..."}')
    refuse_repeated(place, turn, MESSAGE_FIELDS)
    others = {key: value for key, value in message.items() if key not in ("role", "content") and has_value(value)}
    role, content = message["role"], message.get("content")
    if isinstance(role, str) and role.strip().lower() == FUNCTION_CALL:
        role, content, others[FUNCTION_CALL] = "assistant", "", parsed(content, place)
    if FUNCTION_CALL in others:
        others["tool_calls"] = [*others.get("tool_calls", ()), {"type": "function", "function": others[FUNCTION_CALL]}]
        del others[FUNCTION_CALL]
    if "weight" in others and others["weight"] not in (0, 1):
        raise DataError(
            f"{place} has the weight {others['weight']!r}",
            "write 1 for a message to train on and 0 for one that is context only, or remove the key",
        )
    return {"role": known_role(role, place), "content": text_of(content, place), **others}


def known_role(role: Any, place: object) -> str:
    """Return the name in ROLES of a role."""
    name = role.strip().lower() if isinstance(role, str) else ""
    found = SYNONYMS.get(name, name)
    if found not in ROLES:
        raise DataError(
            f"{place} has the role {role!r}",
            f"write one of {', '.join(ROLES)}; also known are {', '.join([*SYNONYMS, FUNCTION_CALL])}",
        )
    return found


def text_of(value: Any, place: object) -> str:
    """Return a value as the text of a message. Raises DataError if it is not text."""
    if isinstance(value, str):
        return value
    if value is None or value != value:  # NaN, which some programs write for no text
        return ""
    if type(value) is int:
        return str(value)
    if isinstance(value, list):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in value]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) == len(parts):
            return "".join(texts)
        kinds = {str(part.get("type", "?")) for part in value if isinstance(part, Mapping) and not part.get("text")}
        raise DataError(
            f"{place} has parts that are not text ({', '.join(sorted(kinds)) or 'not objects'})",
            "remove these parts, or the row; only text is trained on",
        )
    raise DataError(f"{place} holds {described(value)}, not a text", "write it as a text, in quotes")


def parsed(value: Any, place: object) -> Any:
    """Return the value of JSON that stands in a text; a value that is no text is returned unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return strict_json.parse(value)
    except ValueError as error:
        raise DataError(f"{place} holds a text that is not JSON: {error}", "write it as JSON, or remove it") from error


def has_value(value: Any) -> bool:
    """Return whether a key of a message has a value."""
    return value is not None and value != [] and value == value


def empty_answers(messages: Sequence[Message]) -> int:
    """Return the number of messages of the assistant that say nothing and call no tool."""
    return sum(message["role"] == ASSISTANT and not says_something(message) for message in messages)


def says_something(message: Message) -> bool:
    """Return whether a message has a text or calls a tool."""
    return bool(message["content"].strip() or message.get("tool_calls"))


def has_empty_prompt(messages: Sequence[Message]) -> bool:
    """Return whether a message of the user says nothing, or there is none."""
    asked = [message for message in messages if message["role"] == USER]
    return not all(map(says_something, asked)) or not asked


def is_out_of_order(messages: Sequence[Message]) -> bool:
    """Return whether the roles differ from the usual order: system messages, then the user and the assistant in turns,
    with tools between.

    Such a conversation is no error here; templates that require the order refuse it.
    """
    roles = ["system" if message["role"] == "developer" else message["role"] for message in messages]
    while roles and roles[0] == "system":
        del roles[0]
    follows = {"": "user", "user": "assistant", "assistant": "user tool", "tool": "assistant tool"}
    before = ""
    for role in roles:
        if role not in follows[before].split():
            return True
        before = role
    return False
