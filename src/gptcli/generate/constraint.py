"""What a request allows to be drawn next. This module imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

WORD_BITS = 32
"""Tokens of one word of a mask."""
ALL_ALLOWED = -1
"""A word whose bits are all set."""


class Constraint:
    """The tokens that a text may go on with. This class allows every token, and any text is complete."""

    is_free = True
    """Whether every token is always allowed, so that nothing needs to be asked."""
    context: Sequence[int] = ()
    """Ids that are decoded before the text, so that its first token has the same text as in the middle."""
    is_complete = False
    """Whether the text is complete and cannot go on, so that the request ends."""

    def end_with(self, stop_ids: Collection[int]) -> None:
        """Take in the ids each of which ends the text."""

    def mask_into(self, row: NDArray[np.int32]) -> None:
        """Write the allowed tokens of the next place: token i is bit i % 32 of word i // 32.

        Raises:
            DataError: the grammar cannot go on.
        """
        row.fill(ALL_ALLOWED)

    def accept(self, token: int) -> None:
        """Take in the token that was drawn.

        Raises:
            DataError: it was not allowed.
        """

    @property
    def is_satisfied(self) -> bool:
        """Whether the text so far is one that the constraint asks for; it may still go on."""
        return True


FREE = Constraint()


class Language:
    """The texts that a generation may consist of. This class is all texts."""

    def constraint(self) -> Constraint:
        """Return what one text must match."""
        return FREE


ANY_TEXT = Language()


class GrammarText(NamedTuple):
    """A grammar as it is written; of the kind "any" it is none.

    Attributes:
        name: what it is in messages, such as "the JSON schema in schema.json".
    """

    kind: Literal["any", "json_schema", "regex", "lark"]
    text: str
    name: str

    @property
    def remedy(self) -> str:
        """What to do about a grammar of this kind that is wrong."""
        match self.kind:
            case "json_schema":
                return "use the keywords that docs/generating.md lists"
            case "regex":
                return "use the syntax of Rust's regex, without look-around and back references"
            case _:
                return "use the syntax of Lark that docs/generating.md describes"


def mask_words(vocab_size: int) -> int:
    """Return the words of a mask of so many tokens."""
    return -(-vocab_size // WORD_BITS)


NO_GRAMMAR = GrammarText("any", "", "")
