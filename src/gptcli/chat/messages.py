"""The transcript of a model that answers messages, by its own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from gptcli import strict_json
from gptcli.chat.transcript import Transcript
from gptcli.console import quantity
from gptcli.data.chat_encoder import ChatEncoder
from gptcli.data.example_forms import ChatExample, example_of
from gptcli.data.messages import ASSISTANT, Message, empty_answers
from gptcli.data.rows import json_rows
from gptcli.errors import DataError, GptcliError, UsageError
from gptcli.session import Session
from gptcli.storage import expanded, open_regular, storage_errors

PLACE = "the conversation"
SYSTEM = ("system", "developer")
"""Roles of messages before the first turn."""


class MessageTranscript(Transcript):
    """A list of messages. A turn is a message of the user with all that follow it up to the next one.

    Attributes:
        messages: all of them, system messages first.
        tools: the tools of a conversation that was loaded, which the template writes.
        first: the number of the first message that the model reads, after the system messages.
    """

    suffixes = (".jsonl",)
    takes_nothing = False

    def __init__(self, session: Session, encoder: ChatEncoder) -> None:
        self.session, self.encoder = session, encoder
        self.messages: list[Message] = []
        self.tools: list[Any] | None = None
        self.first = 0

    @property
    def description(self) -> str:
        """The model, and what it does with a message."""
        return "This model answers messages, by its own chat template."

    @property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end a reply."""
        return self.encoder.stop_ids

    @property
    def head(self) -> int:
        """The number of system messages."""
        return next((n for n, message in enumerate(self.messages) if message["role"] not in SYSTEM), len(self.messages))

    @property
    def starts(self) -> list[int]:
        """The numbers of the messages that begin a turn."""
        roles = [message["role"] for message in self.messages]
        return [n for n in range(self.head, len(roles)) if roles[n] == "user" and (not n or roles[n - 1] != "user")]

    @property
    def is_waiting(self) -> bool:
        """Whether the last message has no answer yet."""
        return bool(self.starts) and self.messages[-1]["role"] != ASSISTANT

    def state(self) -> object:
        """Return what `restore` needs."""
        return list(self.messages), self.tools, self.first

    def restore(self, state: object) -> None:
        """Bring the transcript back to a state."""
        self.messages, self.tools, self.first = cast("tuple[list[Message], list[Any] | None, int]", state)

    @property
    def system(self) -> str:
        """The text of the system messages."""
        return "\n\n".join(message["content"] for message in self.messages[: self.head])

    def add(self, text: str) -> None:
        """Begin a turn with what the user wrote.

        Raises:
            UsageError: it is empty, or the message before it has no answer.
        """
        if not text.strip():
            raise UsageError("the message is empty", "write one")
        if self.is_waiting:  # it was loaded
            raise UsageError("the last message has no answer yet", "write /retry to get one, or /undo to remove it")
        self.messages.append({"role": "user", "content": text})

    def reply(self, text: str, *, is_end: bool) -> None:
        """Set the reply of the last turn."""
        if self.is_waiting:
            self.messages.append({"role": ASSISTANT, "content": ""})
        self.messages[-1] = {**self.messages[-1], "content": text}

    def reopen(self) -> None:
        """Take back the reply of the last turn.

        Raises:
            UsageError: there is no turn.
        """
        if not self.starts:
            raise UsageError("there is no message to answer again", "write one")
        last = max(n for n, message in enumerate(self.messages) if message["role"] != ASSISTANT)
        del self.messages[last + 1 :]

    def undo(self) -> str:
        """Remove the last turn, and return what the user wrote in it.

        Raises:
            UsageError: there is no turn.
        """
        if not self.starts:
            raise UsageError("there is no turn to undo", "write a message")
        start = self.starts[-1]
        asked: str = self.messages[start]["content"]
        del self.messages[start:]
        self.keep_window()
        return asked

    def reset(self) -> None:
        """Remove all turns."""
        del self.messages[self.head :]
        self.tools, self.first = None, 0

    def keep_window(self) -> None:
        """Let the model read the earlier turns again if none of those that it read are left."""
        if self.first >= len(self.messages):
            self.first = 0

    def set_system(self, text: str) -> None:
        """Set the system message; an empty text removes it.

        Raises:
            UsageError: the template takes no such message.
        """
        before = [{"role": "system", "content": text}] if text else []
        try:
            self.encode([*before, {"role": "user", "content": "?"}])
        except GptcliError as error:
            raise UsageError(f"the chat template takes no such system message: {error.message}") from error
        moved = len(before) - self.head
        self.messages[: self.head] = before
        self.first = max(0, self.first + moved) if self.first else 0

    def encode(self, messages: list[Message]) -> list[int]:
        """Return the ids of messages up to where the assistant is to write."""
        return self.session.chat_prompt(self.encoder, ChatExample(messages, self.tools), PLACE).ids

    def window(self, first: int) -> list[Message]:
        """Return the messages that the model reads if it reads those from the number `first` on."""
        head = self.head
        return [*self.messages[:head], *self.messages[max(first, head) :]]

    def ids(self, written: Sequence[int] = ()) -> list[int]:
        """Return the ids that the model reads, and `written` after them."""
        messages = self.window(self.first)
        if not self.is_waiting:  # nor do all templates write a prompt for an answer after an answer
            messages.append({"role": "user", "content": "?"})
        return [*self.encode(messages), *written]

    def drop(self, limit: int, written: Sequence[int] = ()) -> str:
        """Leave out as few whole turns as possible, and at least one, but never the last one."""
        starts = [start for start in self.starts if start > max(self.first, self.head)]
        low, high = 0, len(starts) - 1
        if high < 0:
            return ""
        while low < high:  # the ids become fewer with each turn that is left out
            middle = (low + high) // 2
            if len(self.encode(self.window(starts[middle]))) + len(written) <= limit:
                high = middle
            else:
                low = middle + 1
        turns = max(1, sum(max(self.first, self.head) <= start < starts[low] for start in self.starts))
        self.first = starts[low]
        return f"the oldest {quantity(turns, 'turn')}"

    def content(self) -> str:
        """Return the transcript as a file.

        Raises:
            UsageError: nothing was said.
        """
        if not self.starts:
            raise UsageError("there is nothing to save yet", "write a message")
        row = {"messages": self.messages} | ({"tools": self.tools} if self.tools else {})
        return strict_json.dumps(row) + "\n"

    @property
    def warning(self) -> str:
        """What `gptcli finetune` would leave out."""
        return (
            "it has an empty answer, and gptcli finetune leaves such rows out" if empty_answers(self.messages) else ""
        )

    def read(self, name: str) -> str:
        """Replace the transcript by that in a file, and return what was read.

        Raises:
            DataError, StorageError: the file cannot be read, or does not hold one conversation.
        """
        messages, tools = self.stored(name)
        before = self.state()
        self.messages, self.tools, self.first = messages, tools, 0
        try:
            self.encode([*messages, *([] if self.is_waiting else [{"role": "user", "content": "?"}])])
        except GptcliError:
            self.restore(before)
            raise
        waiting = "; the last message has no answer: /retry writes one" if self.is_waiting else ""
        return f"{quantity(len(self.starts), 'turn')}{waiting}"

    @staticmethod
    def stored(name: str) -> ChatExample:
        """Return the one conversation of a file of rows."""
        path = expanded(name)
        with storage_errors(name, "read"):
            open_regular(path).close()
            rows = json_rows(path, name)
            place, row = next(rows, (name, None))
            if row is None:
                raise DataError(f"{name} holds no conversation", "name a file that /save has written")
            if next(rows, None) is not None:
                raise DataError(
                    f"{name} holds several conversations", "name a file with one: head -n 1 FILE > one.jsonl"
                )
        return example_of(row, place)
