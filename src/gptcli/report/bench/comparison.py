"""A fair comparison: contenders run in turn, A B A B, and are compared within each round.

Other programs slow a machine down for seconds at a time. Neighbouring measurements are slowed alike, so the ratio of
two contenders is computed within each round, and the median over the rounds is reported.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

Measured = TypeVar("Measured")
Name = TypeVar("Name", bound=Hashable)


class Spread(NamedTuple):
    """The median of several measurements, and the lowest and highest of them."""

    median: float
    low: float
    high: float

    def report(self) -> dict[str, float]:
        """Return the values for JSON, rounded to six significant digits."""
        return {name: float(f"{value:.6g}") for name, value in self._asdict().items()}


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the extremes of the values."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return the spread of ours / theirs within each round; both have one value a round, in the same order."""
    return spread([our / their for our, their in zip(ours, theirs, strict=True)])


def alternate(
    contenders: Mapping[Name, Callable[[], Measured | None]],
    rounds: int,
    on_round: Callable[[int], None] = lambda _: None,
) -> dict[Name, list[Measured]]:
    """Run every contender once a round, in the order given, and return its measurements by name.

    A contender that returns None takes no further part and is not in the result. `on_round(n)` is called after
    round n (from 1).
    """
    measured: dict[Name, list[Measured]] = {name: [] for name in contenders}
    for number in range(1, rounds + 1):
        for name in list(measured):
            result = contenders[name]()
            if result is None:
                del measured[name]
            else:
                measured[name].append(result)
        on_round(number)
    return measured
