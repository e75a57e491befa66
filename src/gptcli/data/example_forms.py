"""Rows as examples: conversations to learn from, and preferences between two answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from gptcli.data.conversations import (
    ADDITIONS,
    ANSWERS,
    CHOSEN,
    CONVERSATIONS,
    QUESTIONS,
    REJECTED,
    SYSTEM,
    TOOLS,
    conversation_of,
    first,
    question_of,
)
from gptcli.data.fields import FieldSelection, refuse_repeated
from gptcli.data.messages import Message, checked_messages, parsed, text_of
from gptcli.errors import DataError


class ChatExample(NamedTuple):
    """A conversation to learn from."""

    messages: list[Message]
    tools: list[Any] | None = None
    """The tools that the template is to write."""


class Preference(NamedTuple):
    """Two answers to the same messages; `chosen` is the better one."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    tools: list[Any] | None = None

    @property
    def messages(self) -> list[Message]:
        """The messages of the prompt and of both answers."""
        return [*self.prompt, *self.chosen, *self.rejected]

    @property
    def is_undecided(self) -> bool:
        """Whether both answers are the same, so that nothing can be learnt from them."""
        return self.chosen == self.rejected


def example_of(row: Mapping[str, Any], place: object) -> ChatExample:
    """Return the conversation of a row in one of the forms of conversations.py.

    Raises:
        DataError: the row is a preference or a judgement, could be read in two ways, or holds no conversation.
    """
    if CHOSEN in row and REJECTED in row:
        raise DataError(
            f"{place} is a preference (it has {CHOSEN!r} and {REJECTED!r})",
            "fine-tune on it with --method dpo",
        )
    if is_judged(row):
        raise DataError(
            f"{place} has 'label' beside a prompt and a completion: a judgement of one answer, as KTO learns from",
            "keep the good ones, without 'label': "
            "jq -c 'select(.label == true or .label == 1) | del(.label)' FILE > good.jsonl",
        )
    if first((*CONVERSATIONS, *QUESTIONS), row) is None:
        raise FieldSelection("examples").missing_error(place, row)
    values = plain_values(row, place)
    values = with_one_of(QUESTIONS, with_one_of(ANSWERS, values, place), place)
    messages = checked_messages(conversation_of(without(values, SYSTEM)), place)
    return ChatExample(with_system(messages, values, place), tools_of(row, place))


def preference_of(row: Mapping[str, Any], place: object) -> Preference:
    """Return the preference of a row: messages, and two answers that begin where these end.

    The answers may be texts or messages. Where both begin with the prompt, or with the same messages, these belong to
    the prompt.

    Raises:
        DataError: one of them is missing or empty, or an answer does not begin with the assistant.
    """
    values = with_one_of(QUESTIONS, plain_values(row, place), place)
    prompt = with_system(prompt_of(values, place), values, place)
    answers = [answer_of(values[name], f"{name!r} of {place}") for name in (CHOSEN, REJECTED)]
    if all(answer[: len(prompt)] == prompt for answer in answers):
        answers = [answer[len(prompt) :] for answer in answers]
    shared = shared_messages(*answers)
    prompt, answers = [*prompt, *answers[0][:shared]], [answer[shared:] for answer in answers]
    for name, answer in zip((CHOSEN, REJECTED), answers, strict=True):
        refuse_no_answer(answer, f"{name!r} of {place}")
    if not prompt:
        raise DataError(f"{place} has no prompt, and its answers begin differently", "add the prompt")
    chosen, rejected = answers
    return Preference(prompt, chosen, rejected, tools_of(row, place))


def prompt_of(values: Mapping[str, Any], place: object) -> list[Message]:
    """Return the messages of a preference before both answers; none if they are at the beginning of the answers."""
    alone = first(CONVERSATIONS, values)
    if alone is not None:
        return checked_messages(values[alone], place)
    if first(QUESTIONS, values) is not None:
        return checked_messages(question_of(values), place)
    if not (isinstance(values[CHOSEN], list) and isinstance(values[REJECTED], list)):
        raise DataError(
            f"{place} has no prompt, and its answers are texts",
            "write the prompt into a field of its own, or the answers as lists of messages that begin with it",
        )
    return []


def is_judged(row: Mapping[str, Any]) -> bool:
    """Return whether a row says of one answer whether it is good."""
    judgement = str(row.get("label")).strip().lower() in ("true", "false", "0", "1", "0.0", "1.0")
    return judgement and "prompt" in row and "completion" in row


def plain_values(row: Mapping[str, Any], place: object) -> dict[str, Any]:
    """Return a row with its texts as text: an integer as its digits, null and NaN as an empty text.

    Lists and objects stay as they are.
    """
    values = dict(row)
    for name in (*QUESTIONS, *ADDITIONS, *ANSWERS, *SYSTEM, CHOSEN, REJECTED):
        if name in values and not isinstance(values[name], list | dict):
            values[name] = text_of(values[name], f"field {name!r} of {place}")
    return values


def with_one_of(known: Sequence[str], values: dict[str, Any], place: object) -> dict[str, Any]:
    """Return a row with only that one of the known fields that has a value.

    Raises:
        DataError: two of them have different values, so that it is not clear which to read.
    """
    if first(CONVERSATIONS, values) is not None:
        return values
    found = [name for name in known if values.get(name)]
    if len({repr(values[name]) for name in found}) > 1:
        prompt, answers = first(QUESTIONS, values), f"--set data.fields.completion={first(ANSWERS, values)}"
        if CHOSEN in values:
            answers = f"--set data.fields.chosen={CHOSEN} --set data.fields.rejected={REJECTED}"
        raise DataError(
            f"{place} has {' and '.join(map(repr, found))}, and which of them to read is not clear",
            f"name the fields: --set data.fields.prompt={prompt} {answers}",
        )
    return without(values, set(known).difference(found[:1])) if found else values


def with_system(messages: list[Message], values: Mapping[str, Any], place: object) -> list[Message]:
    """Return messages with the system message that a field of the row holds before them, unless it is there.

    Raises:
        DataError: they begin with another one, or two fields hold different ones.
    """
    names = [name for name in SYSTEM if values.get(name)]
    if not names:
        return messages
    name = names[0]
    if any(values[other] != values[name] for other in names):
        raise DataError(f"{place} has two system messages, in {' and '.join(map(repr, names))}", "remove one of them")
    system = {"role": "system", "content": text_of(values[name], f"field {name!r} of {place}")}
    if messages and messages[0]["role"] == "system":
        if messages[0]["content"] != system["content"]:
            raise DataError(
                f"{place} has another system message in {name!r} than in its messages", "remove one of them"
            )
        return messages
    return [system, *messages]


def without(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return a row without some fields."""
    return {key: value for key, value in values.items() if key not in names}


def answer_of(value: Any, place: object) -> list[Message]:
    """Return an answer as messages: a text is one of the assistant, an object is one message."""
    if isinstance(value, str):
        value = [{"role": "assistant", "content": value}]
    return checked_messages([value] if isinstance(value, dict) else value, place)


def shared_messages(chosen: Sequence[Message], rejected: Sequence[Message]) -> int:
    """Return the number of messages that both answers begin with; the last one of either is never among them."""
    most = min(len(chosen), len(rejected)) - 1
    return next((n for n in range(most) if chosen[n] != rejected[n]), max(most, 0))


def refuse_no_answer(answer: Sequence[Message], place: object) -> None:
    """Raise a DataError if messages do not begin with an answer of the assistant."""
    if not answer:
        raise DataError(f"{place} ends where the prompt ends", "add the answer of the assistant")
    if answer[0]["role"] != "assistant":
        raise DataError(
            f"{place} begins with the role {answer[0]['role']!r}, and other messages than the prompt",
            "let it begin with the answer of the assistant, or with all messages of the prompt",
        )


def tools_of(row: Mapping[str, Any], place: object) -> list[Any] | None:
    """Return the tools of a row: a list, or JSON of one; None if it has none."""
    name = first(TOOLS, row)
    tools = None if name is None else row[name]
    if tools is None or tools in ("", []) or tools != tools:
        return None
    tools = parsed(tools, f"field {name!r} of {place}")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError(f"field {name!r} of {place} is not a list of objects", "write the tools as OpenAI does")
    if not tools:
        return None
    for tool in tools:
        refuse_repeated(place, tool, ("type", "function", "name"))
    return tools if name == "tools" else [{"type": "function", "function": tool} for tool in tools]
