"""What a request allows to be drawn next. This module imports no torch."""

from __future__ import annotations

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
    def is_complete(self) -> bool:
        """Whether the text is complete and cannot go on, so that the request ends."""
        return False

    @property
    def is_satisfied(self) -> bool:
        """Whether the text so far is one that the constraint asks for; it may still go on."""
        return True


FREE = Constraint()


def mask_words(vocab_size: int) -> int:
    """Return the words of a mask of so many tokens."""
    return -(-vocab_size // WORD_BITS)
