"""What was said in a chat, of which the model reads as much as its context holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence


class Transcript(ABC):
    """What the user and the model wrote, in turns: a message of the user and the model's reply to it."""

    @property
    @abstractmethod
    def description(self) -> str:
        """What the model does with a message, for people."""

    @property
    @abstractmethod
    def stop_ids(self) -> frozenset[int]:
        """The ids that end a reply."""

    @property
    @abstractmethod
    def takes_nothing(self) -> bool:
        """Whether an empty message means something: that the model is to go on."""

    @abstractmethod
    def state(self) -> object:
        """Return what `restore` needs to bring the transcript back to where it is now."""

    @abstractmethod
    def restore(self, state: object) -> None:
        """Bring the transcript back to where it was."""

    @abstractmethod
    def add(self, text: str) -> None:
        """Begin a turn with what the user wrote.

        Raises:
            UsageError, DataError: the model cannot read it, or the turn before has no reply yet.
        """

    @abstractmethod
    def reply(self, text: str, *, is_end: bool) -> None:
        """Set the reply of the last turn; `is_end` says that the model ended the text itself."""

    @abstractmethod
    def reopen(self) -> None:
        """Take back the reply of the last turn.

        Raises:
            UsageError: there is no turn.
        """

    @abstractmethod
    def undo(self) -> str:
        """Remove the last turn, and return what the user wrote in it.

        Raises:
            UsageError: there is no turn.
        """

    @abstractmethod
    def reset(self) -> None:
        """Remove all turns."""

    @abstractmethod
    def set_system(self, text: str) -> None:
        """Set the system message; an empty text removes it.

        Raises:
            UsageError, DataError: the model reads none.
        """

    @property
    @abstractmethod
    def system(self) -> str:
        """The system message, or an empty text."""

    @abstractmethod
    def ids(self, written: Sequence[int] = ()) -> list[int]:
        """Return the ids that the model reads, and after them `written`, the ids of the reply so far.

        Raises:
            DataError: the model cannot read what was said.
        """

    @abstractmethod
    def drop(self, limit: int, written: Sequence[int] = ()) -> str:
        """Let the model no longer read the beginning, so that `ids` has at most `limit` ids if possible.

        Returns:
            What is no longer read, for people; an empty text if there is nothing to say.
        """

    @abstractmethod
    def content(self) -> str:
        """Return the transcript as a file.

        Raises:
            UsageError: nothing was said.
        """

    @property
    @abstractmethod
    def warning(self) -> str:
        """What other commands cannot use of `content`, for people; an empty text if it is nothing."""

    @property
    @abstractmethod
    def suffixes(self) -> tuple[str, ...]:
        """The endings of files of transcripts; () allows all that are not of conversations."""

    @abstractmethod
    def read(self, name: str) -> str:
        """Replace the transcript by that in a file, and return what was read, for people.

        Raises:
            DataError, StorageError: the file cannot be read, or holds no transcript.
        """
