"""Curves of loss against seconds, and the time at which a curve reaches a loss.

There are two clocks. `seconds` counts training steps alone, the first as long as the median step, since it includes
compilation and the first allocations. `cold_seconds` is the time from the command on, with interpreter, imports, data,
compilation and the first step as they were. Both leave out evaluations and checkpoints, whose number is a setting.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple


class Point(NamedTuple):
    """The loss over the whole validation split after `step` steps, which took `stepping_seconds` in all."""

    step: int
    stepping_seconds: float
    loss: float


@dataclass(frozen=True)
class Run:
    """One training run of a contender."""

    seed: int
    points: tuple[Point, ...]
    startup_seconds: float
    """Seconds from the command to the first step."""
    first_step_seconds: float
    median_step_seconds: float
    wall_seconds: float
    """Seconds of the whole command."""

    @property
    def curve(self) -> list[tuple[float, float]]:
        """(seconds, loss) by the clock of steps, the first as long as the median one."""
        excess = self.first_step_seconds - self.median_step_seconds
        return [(point.stepping_seconds - excess, point.loss) for point in self.points]

    @property
    def cold_curve(self) -> list[tuple[float, float]]:
        """(seconds, loss) from the command on, without evaluations and checkpoints."""
        return [(self.startup_seconds + point.stepping_seconds, point.loss) for point in self.points]

    @property
    def lowest(self) -> Point:
        return min(self.points, key=lambda point: point.loss)

    def report(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return asdict(self) | {"points": [list(point) for point in self.points]}


def crossing(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """Return the seconds at which a curve of (seconds, loss) first reaches `target`, or None if it never does.

    Between two points the curve is a straight line. A curve that begins below gives its first point, an upper bound.
    """
    before: tuple[float, float] | None = None
    for seconds, loss in curve:
        if loss <= target:
            if before is None:
                return seconds
            then, higher = before
            return then + (seconds - then) * (higher - target) / (higher - loss)
        before = (seconds, loss)
    return None


def median_step(marks: Sequence[tuple[int, float]]) -> float:
    """Return the seconds of the median step after the first, from (steps done, seconds) pairs, or of the only pair."""
    taken = [(later - sooner) / (last - first) for (first, sooner), (last, later) in pairwise(marks)]
    return statistics.median(taken) if taken else marks[0][1] / marks[0][0]
