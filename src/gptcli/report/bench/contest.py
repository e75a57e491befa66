"""Who is faster, fairly: contenders play in turn, A B A B, and are compared round by round. Knows no contender.

A machine that others use slows down for seconds at a time. Rounds that lie side by side are slowed alike, so the ratio
of two contenders is taken within each round, and the median over the rounds is what is reported.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

Played = TypeVar("Played")


class Spread(NamedTuple):
    """The median of several measurements, and the lowest and highest of them."""

    median: float
    low: float
    high: float

    def report(self) -> dict[str, float]:
        """For JSON, to six significant digits."""
        return {name: float(f"{value:.6g}") for name, value in self._asdict().items()}


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """How many times theirs ours is, round by round; both have one value a round, in the order of the rounds."""
    return spread([our / their for our, their in zip(ours, theirs, strict=True)])


def alternate(
    players: Mapping[str, Callable[[], Played | None]], rounds: int, on_round: Callable[[int], None] = lambda _: None
) -> dict[str, list[Played]]:
    """Let every player play once a round, in the order given; what each has returned, by name.

    A player that returns none has dropped out and is not in the result. `on_round(n)` is called after round n (from 1).
    """
    played: dict[str, list[Played]] = {name: [] for name in players}
    for number in range(1, rounds + 1):
        for name in list(played):
            result = players[name]()
            if result is None:
                del played[name]
            else:
                played[name].append(result)
        on_round(number)
    return played
