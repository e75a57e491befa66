"""Rows of conversations, instructions and preferences in their usual forms, as lists of messages.

    {"messages": [{"role": ..., "content": ...}, ...]}
    {"conversations": [{"from": "human", "value": ...}, ...]}          of ShareGPT
    {"instruction": ..., "input": ..., "output": ...}                  of Alpaca; "input" may be missing
    {"instruction": ..., "context": ..., "response": ...}              of Dolly; "context" may be missing
    {"prompt": ..., "completion": ...} or {"prompt": ..., "response": ...}    texts, or lists of messages
    {"question": ..., "answer": ...} or {"query": ..., "response": ...}

Each may have a field "system" or "system_prompt", and an instruction a "history" of [question, answer] pairs. A
preference has "chosen" and "rejected" in place of the answer, or beside "messages" that end where they begin.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

CONVERSATIONS = ("messages", "conversations")
QUESTIONS, ADDITIONS = ("instruction", "prompt", "question", "query"), ("input", "context")
ANSWERS = ("output", "completion", "response", "answer")
SYSTEM, HISTORY, TOOLS = ("system", "system_prompt"), ("history",), ("tools", "functions")
CHOSEN, REJECTED = "chosen", "rejected"
MESSAGE_FIELDS = ("role", "content", "from", "value")
ROLES = {"human": "user", "gpt": "assistant"}


def conversation_fields(names: Collection[str]) -> tuple[str, ...]:
    """Return the fields of a row that are a conversation; an empty tuple if it is in no known form."""
    alone = first(CONVERSATIONS, names)
    question, answer = first(QUESTIONS, names), first(ANSWERS, names)
    found: tuple[str, ...] = ()
    if alone is not None:
        found = (alone, *SYSTEM)
    elif question is not None and answer is not None:
        found = (question, *ADDITIONS, answer, *SYSTEM, *HISTORY)
    return tuple(name for name in found if name in names)


def preference_fields(names: Collection[str]) -> tuple[str, ...]:
    """Return the fields of a row that are a preference; an empty tuple if it is none."""
    if CHOSEN not in names or REJECTED not in names:
        return ()
    alone = first(CONVERSATIONS, names)
    before = (alone,) if alone is not None else (first(QUESTIONS, names), *ADDITIONS)
    found = (*before, *SYSTEM, *(HISTORY if alone is None else ()), CHOSEN, REJECTED)
    return tuple(name for name in found if name is not None and name in names)


def conversation_of(row: Mapping[str, Any]) -> Any:
    """Return the messages of a row that has `conversation_fields`; a value that is not a list is returned
    unchanged.
    """
    alone = first(CONVERSATIONS, row)
    messages = exchange(row) if alone is None else row[alone]
    if not isinstance(messages, list):
        return messages
    system = value_of(SYSTEM, row)
    before = [{"role": "system", "content": system}] if system else []
    return [*before, *map(as_message, messages)]


def exchange(row: Mapping[str, Any]) -> list[Any]:
    """Return the messages of a question and its answer, and of those before it."""
    answer = value_of(ANSWERS, row)
    answered = [{"role": "assistant", "content": answer}]
    return [*question_of(row), *(answer if isinstance(answer, list) else answered)]


def question_of(row: Mapping[str, Any]) -> list[Any]:
    """Return the messages of a question, and of those before it."""
    question = value_of(QUESTIONS, row)
    additions = [row[name] for name in ADDITIONS if is_given(row.get(name))]
    additions = [value for number, value in enumerate(additions) if value not in additions[:number]]
    history = value_of(HISTORY, row) or []
    before = [message for turn in history for message in earlier(turn)] if isinstance(history, list) else [{}]
    asked = [{"role": "user", "content": as_text((question, *additions))}]
    if isinstance(question, list):
        asked = [*question, {"role": "user", "content": as_text(additions)}] if additions else question
    return [*before, *asked]


def value_of(known: tuple[str, ...], row: Mapping[str, Any]) -> Any:
    """Return the value of the first of the known fields that has one in a row; an empty text if none has."""
    return next((row[name] for name in known if is_given(row.get(name))), "")


def is_given(value: Any) -> bool:
    """Return whether a field has a value: it is not null, NaN, an empty text or an empty list."""
    return value is not None and value not in ("", []) and value == value


def as_text(values: Sequence[Any]) -> Any:
    """Return texts and numbers as one text, a paragraph each, without empty ones; None if a value is of another
    type.
    """
    if any(isinstance(value, list | Mapping) and value for value in values):
        return None
    return "\n\n".join(str(value) for value in values if value or type(value) in (int, float))


def earlier(turn: Any) -> list[Any]:
    """Return the messages of an item of a history: a pair of texts, or one message; anything else gives an empty
    message.
    """
    if isinstance(turn, list) and len(turn) == 2:
        return [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return [turn if isinstance(turn, Mapping) else {}]


def as_message(turn: Any) -> Any:
    """Return a turn of any form as a message; keys other than MESSAGE_FIELDS are kept, since a template may write
    them.
    """
    if not isinstance(turn, Mapping) or "from" not in turn:
        return turn
    others = {key: value for key, value in turn.items() if key not in ("from", "value")}
    role = turn["from"]
    return {**others, "role": ROLES.get(role, role) if isinstance(role, str) else role, "content": turn.get("value")}


def first(known: tuple[str, ...], names: Collection[str]) -> str | None:
    """Return the first of the known names that a row has, or None."""
    return next((name for name in known if name in names), None)
