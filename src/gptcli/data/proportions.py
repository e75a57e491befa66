"""Turns among several by their weights, which follow from the number of the turn alone and are fair over any stretch.

The turns repeat after a period in which each has its exact number of them. Within it they follow Tijdeman, "The
chairman assignment problem", 1980: after n turns each of K has had its share of them, give or take less than one
(1 - 1/(2K - 2)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

LONGEST_PERIOD = 1 << 14
"""The longest period; weights that would need a longer one are rounded to it."""


class Proportions:
    """Turns for `weights`, taken as the decimals that they are written with.

    Attributes:
        counts: The turns of each in a period; `period` is their sum.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.counts = turns_in_period(weights)
        self.period = sum(self.counts)
        self.owners = assign_turns(self.counts)
        """The owner of each turn: (period,)."""
        self.ranks = np.empty(self.period, dtype=np.int64)
        """The number of turns that the owner of each turn has had before it in the period: (period,)."""
        for owner, count in enumerate(self.counts):
            self.ranks[self.owners == owner] = np.arange(count)

    def turns(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """numbers (N,) of turns, from 0 -> (N,) their owners, (N,) their numbers among the turns of their owners."""
        periods, places = np.divmod(numbers.astype(np.int64), self.period)
        owners = self.owners[places]
        return owners, periods * np.array(self.counts)[owners] + self.ranks[places]

    def before(self, number: int) -> list[int]:
        """Return the number of turns that each has among the first `number`."""
        periods, rest = divmod(number, self.period)
        had = np.bincount(self.owners[:rest], minlength=len(self.counts))
        return [periods * count + int(more) for count, more in zip(self.counts, had, strict=True)]


def turns_in_period(weights: Sequence[float]) -> list[int]:
    """Return the smallest whole numbers in the proportion of the weights, or the nearest ones if they are too large."""
    exact = [Fraction(repr(weight)) for weight in weights]
    scale = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    divisor = math.gcd(*whole)
    whole = [count // divisor for count in whole]
    total = sum(whole)
    if total <= LONGEST_PERIOD:
        return whole
    return [max(1, round(Fraction(count, total) * LONGEST_PERIOD)) for count in whole]


def assign_turns(counts: Sequence[int]) -> np.ndarray:
    """Return the owner of each turn of a period, (sum(counts),): the most urgent one of those with a claim to it."""
    share, parts = np.array(counts, dtype=np.int64), max(1, 2 * len(counts) - 2)
    period = int(share.sum())
    owners = np.empty(period, dtype=np.int64)
    had = np.zeros(len(counts), dtype=np.int64)
    for turn in range(period):
        owed = parts * ((turn + 1) * share - had * period)  # in parts of a turn's `period` parts
        deadline = np.where(owed >= period, (parts * period - period - owed) / share, np.inf)
        owners[turn] = np.argmin(deadline) if np.isfinite(deadline).any() else np.argmax(owed)
        had[owners[turn]] += 1
    return owners
