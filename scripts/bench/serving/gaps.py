"""Statistics of times: quantiles, and the times between pieces of an answer inside and outside of windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class Window(NamedTuple):
    """A stretch of time."""

    start: float
    end: float


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed; NaN if there are none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def gaps(times: Sequence[float], windows: Sequence[Window]) -> tuple[list[float], list[float]]:
    """Return the times between neighbours that touch no window, and those that touch one."""
    outside, inside = list[float](), list[float]()
    for before, after in pairwise(times):
        touches = any(after > window.start and before < window.end for window in windows)
        (inside if touches else outside).append(after - before)
    return outside, inside
