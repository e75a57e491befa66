"""Rows of conversations and instructions in the forms in which people publish them, as lists of messages.

    {"messages": [{"role": ..., "content": ...}, ...]}
    {"conversations": [{"from": "human", "value": ...}, ...]}          as ShareGPT has them
    {"instruction": ..., "input": ..., "output": ...}                  as Alpaca has them; "input" may be missing
    {"instruction": ..., "context": ..., "response": ...}              as Dolly has them; "context" may be missing
    {"prompt": ..., "completion": ...} or {"prompt": ..., "response": ...}    texts, or lists of messages

Each may have a field "system" or "system_prompt", and an instruction a "history" of [question, answer] pairs.

Knows no template and no file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

QUESTIONS, ADDITIONS, ANSWERS = ("instruction", "prompt"), ("input", "context"), ("output", "completion", "response")
SYSTEM, HISTORY = ("system", "system_prompt"), ("history",)
MESSAGE_FIELDS = ("role", "content", "from", "value")
ROLES = {"human": "user", "gpt": "assistant"}


def conversation_fields(names: Collection[str]) -> tuple[str, ...]:
    """Which of a row's fields are a conversation; none where it is in no known form."""
    alone = first(("messages", "conversations"), names)
    question, addition, answer = (first(known, names) for known in (QUESTIONS, ADDITIONS, ANSWERS))
    if alone is not None:
        found = (alone, first(SYSTEM, names))
    elif question is not None and answer is not None:
        found = (question, addition, answer, first(SYSTEM, names), first(HISTORY, names))
    else:
        found = ()
    return tuple(name for name in found if name is not None)


def conversation_of(row: Mapping[str, Any]) -> Any:
    """The messages of a row that has `conversation_fields`; what is no conversation comes back as it is."""
    alone = first(("messages", "conversations"), row)
    messages = exchange(row) if alone is None else row[alone]
    system = row.get(first(SYSTEM, row) or "")
    if not isinstance(messages, list):
        return messages
    before = [{"role": "system", "content": system}] if system else []
    return [*before, *map(as_message, messages)]


def exchange(row: Mapping[str, Any]) -> list[Any]:
    """The messages of a question and its answer, and of those before it."""
    question, addition, answer = (row.get(first(known, row) or "") for known in (QUESTIONS, ADDITIONS, ANSWERS))
    history = row.get(first(HISTORY, row) or "") or []
    before = [message for turn in history for message in earlier(turn)] if isinstance(history, list) else [{}]
    asked = [{"role": "user", "content": as_text((question, addition))}]
    answered = [{"role": "assistant", "content": answer}]
    if isinstance(question, list):
        asked = [*question, {"role": "user", "content": as_text([addition])}] if addition else question
    return [*before, *asked, *(answer if isinstance(answer, list) else answered)]


def as_text(values: Sequence[Any]) -> Any:
    """Texts and numbers as one text, a paragraph each, without empty ones; None where a value is of another type."""
    if any(isinstance(value, list | Mapping) and value for value in values):
        return None
    return "\n\n".join(str(value) for value in values if value)


def earlier(turn: Any) -> list[Any]:
    """The messages of an item of a history: a pair of texts, or one message; anything else comes back as no message."""
    if isinstance(turn, list) and len(turn) == 2:
        return [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return [turn if isinstance(turn, Mapping) else {}]


def as_message(turn: Any) -> Any:
    """A turn of any form as a message; keys other than MESSAGE_FIELDS stay, which a template may write."""
    if not isinstance(turn, Mapping) or "from" not in turn:
        return turn
    others = {key: value for key, value in turn.items() if key not in ("from", "value")}
    return {**others, "role": ROLES.get(turn["from"], turn["from"]), "content": turn.get("value")}


def first(known: tuple[str, ...], names: Collection[str]) -> str | None:
    return next((name for name in known if name in names), None)
