"""The transcript of a base model, which continues a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from gptcli.chat.transcript import Transcript
from gptcli.console import quantity
from gptcli.errors import DataError, UsageError
from gptcli.generate.text import represented
from gptcli.storage import SMALL, expanded, read_regular, storage_errors
from gptcli.tokenizer.tokenizer import Tokenizer

CLOSING = tuple(".,;:!?)]}'\u2019\u201d\u2026%")
"""Characters before which no blank is put between what the model wrote and what the user writes."""
TEXT = "the text"


@dataclass
class StoryTurn:
    """What the user wrote, and how the model went on.

    Attributes:
        asked: the user's text, with a blank before it where it needs one.
        reply: the text after it.
        begins: whether a new text begins with it, since the model ended the one before.
        is_end: whether the model ended the text after it.
    """

    asked: str
    reply: str = ""
    begins: bool = False
    is_end: bool = False


class StoryTranscript(Transcript):
    """A text that the user and the model write in turns. Where the model ends it, the next message begins another.

    Attributes:
        turns: what was written by both, in order.
        skipped: the ids at the beginning of the present text that the model no longer reads.
    """

    suffixes = ()
    takes_nothing = True
    system = ""
    warning = ""

    def __init__(self, tokenizer: Tokenizer, stop_ids: frozenset[int]) -> None:
        self.tokenizer, self.stops = tokenizer, stop_ids
        self.turns: list[StoryTurn] = []
        self.skipped = 0

    @property
    def description(self) -> str:
        """The model, and what it does with a message."""
        return "This is a base model: it continues a text. Write its beginning; an empty line lets the model go on."

    @property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end a reply."""
        return self.stops

    @property
    def texts(self) -> list[str]:
        """The texts, of which the model continues the last."""
        found: list[str] = []
        for number, turn in enumerate(self.turns):
            found += [""] if turn.begins or not number else []
            found[-1] += turn.asked + turn.reply
        return found

    def state(self) -> object:
        """Return what `restore` needs."""
        return [replace(turn) for turn in self.turns], self.skipped

    def restore(self, state: object) -> None:
        """Bring the transcript back to a state."""
        self.turns, self.skipped = cast("tuple[list[StoryTurn], int]", state)

    def add(self, text: str) -> None:
        """Begin a turn with what the user wrote.

        Raises:
            DataError, TokenizerError: the tokenizer cannot represent it, or it is empty and no token begins a text.
        """
        last = self.turns[-1] if self.turns else None
        begins = last is None or last.is_end
        before = "" if begins else self.texts[-1]
        if text and before and needs_blank(before, text):
            text = f" {text}"
        if begins and not text and not self.tokenizer.framing.before:
            raise DataError("this model needs the beginning of a text", "write some words")
        represented(self.tokenizer, text, TEXT)
        self.turns.append(StoryTurn(text, begins=begins))
        if begins:
            self.skipped = 0

    def reply(self, text: str, *, is_end: bool) -> None:
        """Set the reply of the last turn."""
        self.turns[-1].reply, self.turns[-1].is_end = text, is_end

    def reopen(self) -> None:
        """Take back the reply of the last turn.

        Raises:
            UsageError: there is no turn.
        """
        if not self.turns:
            raise UsageError("there is no text to continue again", "write the beginning of one")
        self.turns[-1].reply, self.turns[-1].is_end = "", False
        self.keep_window()

    def undo(self) -> str:
        """Remove the last turn, and return what the user wrote in it.

        Raises:
            UsageError: there is no turn.
        """
        if not self.turns:
            raise UsageError("there is no turn to undo", "write the beginning of a text")
        asked = self.turns.pop().asked
        self.keep_window()
        return asked

    def reset(self) -> None:
        """Remove all turns."""
        self.turns.clear()
        self.skipped = 0

    def keep_window(self) -> None:
        """Let the model read the beginning again if nothing of what it read is left."""
        if self.skipped >= len(self.whole()):
            self.skipped = 0

    def set_system(self, text: str) -> None:
        """Set the system message; an empty text removes it.

        Raises:
            UsageError: always, since a base model reads none.
        """
        raise UsageError("a base model reads no system message", "begin the text with what it should know")

    def whole(self) -> list[int]:
        """Return the ids of the present text, with the token before it."""
        text = self.texts[-1] if self.turns else ""
        return [*self.tokenizer.framing.before, *represented(self.tokenizer, text, TEXT)]

    def ids(self, written: Sequence[int] = ()) -> list[int]:
        """Return the ids that the model reads, and `written` after them."""
        return [*self.whole(), *written][self.skipped :]

    def drop(self, limit: int, written: Sequence[int] = ()) -> str:
        """Leave out the first ids, which is said the first time only: a story is often longer than the context."""
        before, self.skipped = self.skipped, max(self.skipped, self.skipped + len(self.ids(written)) - max(1, limit))
        return "" if before else "the beginning of the text, and more of it as it grows"

    def content(self) -> str:
        """Return the transcript as a file.

        Raises:
            UsageError: nothing was written.
        """
        if not self.turns:
            raise UsageError("there is nothing to save yet", "write the beginning of a text")
        return "\n\n".join(self.texts)

    def read(self, name: str) -> str:
        """Replace the transcript by that in a file, and return what was read.

        Raises:
            DataError, TokenizerError, StorageError: the file cannot be read, or is no text of this model.
        """
        with storage_errors(name, "read"):
            data = read_regular(expanded(name), SMALL)
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{name} is not UTF-8 at byte {error.start}", "save it as UTF-8") from error
        if not text:
            raise DataError(f"{name} is empty", "name a file with a text")
        represented(self.tokenizer, text, name)
        self.turns, self.skipped = [StoryTurn(text, begins=True)], 0
        return f"{quantity(len(text), 'character')}, which an empty line continues"


def needs_blank(before: str, text: str) -> bool:
    """Return whether a blank belongs between two texts: both have none there, and the text separates words by them."""
    return " " in before and not before[-1].isspace() and not text[0].isspace() and not text.startswith(CLOSING)
