"""Rows of conversations and instructions in the forms in which people publish them, as lists of messages.

    {"messages": [{"role": ..., "content": ...}, ...]}
    {"conversations": [{"from": "human", "value": ...}, ...]}          as ShareGPT has them
    {"instruction": ..., "input": ..., "output": ...}                  as Alpaca has them; "input" may be missing
    {"instruction": ..., "context": ..., "response": ...}              as Dolly has them; "context" may be missing
    {"prompt": ..., "completion": ...} or {"prompt": ..., "response": ...}    texts, or lists of messages

Knows no template and no file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

QUESTIONS, ADDITIONS, ANSWERS = ("instruction", "prompt"), ("input", "context"), ("output", "completion", "response")
MESSAGE_FIELDS = ("role", "content", "from", "value")
ROLES = {"human": "user", "gpt": "assistant"}


def conversation_fields(names: Collection[str]) -> tuple[str, ...]:
    """Which of a row's fields are a conversation; none where it is in no known form."""
    for alone in ("messages", "conversations"):
        if alone in names:
            return (alone,)
    question, addition, answer = (first(known, names) for known in (QUESTIONS, ADDITIONS, ANSWERS))
    if question is None or answer is None:
        return ()
    return (question, answer) if addition is None else (question, addition, answer)


def conversation_of(row: Mapping[str, Any]) -> Any:
    """The messages of a row that has `conversation_fields`; what is no conversation comes back as it is."""
    fields = conversation_fields(row)
    if fields == ("messages",):
        return row["messages"]
    if fields == ("conversations",):
        turns = row["conversations"]
        return [as_message(turn) for turn in turns] if isinstance(turns, list) else turns
    question, *addition, answer = (row[field] for field in fields)
    if isinstance(question, list) and isinstance(answer, list):
        return [*question, *answer]
    asked = "\n\n".join(str(text) for text in (question, *addition) if text)
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


def as_message(turn: Any) -> Any:
    if not isinstance(turn, Mapping) or "from" not in turn:
        return turn
    return {"role": ROLES.get(turn["from"], turn["from"]), "content": turn.get("value")}


def first(known: tuple[str, ...], names: Collection[str]) -> str | None:
    return next((name for name in known if name in names), None)
