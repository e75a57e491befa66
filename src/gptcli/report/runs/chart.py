"""Curves drawn with Unicode's braille characters, each of which has two by four dots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from gptcli.figures import figure

BLANK = 0x2800
"""The braille character without dots, to which the bits of the dots are added."""
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""The bit of each dot of a character, by column and row."""


class Series(NamedTuple):
    """Points of a curve. A series with a `mark` is drawn with this character at its points, otherwise with dots."""

    name: str
    points: Sequence[tuple[float, float]]
    mark: str = ""

    @property
    def legend(self) -> str:
        """The sign and the name of the curve."""
        return f"{self.mark or chr(BLANK | 0x36)} {self.name}"


def draw(series: Sequence[Series], columns: int, rows: int) -> list[str]:
    """Return the lines of a picture of curves over a common axis, with its lowest and highest numbers.

    Points that are not finite are left out; without any there are no lines.

    Args:
        columns, rows: the size of the area in which the curves are, in characters.
    """
    finite = [(x, y) for one in series for x, y in one.points if math.isfinite(y)]
    if not finite:
        return []
    (left, right), (low, high) = ((min(values), max(values)) for values in zip(*finite, strict=True))
    dots = [[0] * columns for _ in range(rows)]
    marks: dict[tuple[int, int], str] = {}
    for one in series:
        for x, y in one.points:
            if not math.isfinite(y):
                continue
            across = place(x, left, right, 2 * columns)
            down = 4 * rows - 1 - place(y, low, high, 4 * rows)
            row, column = down // 4, across // 2
            if one.mark:
                marks[row, column] = one.mark
            else:
                dots[row][column] |= DOTS[across % 2][down % 4]
    labels = [figure(high, None), *[""] * (rows - 2), figure(low, None)]
    width = max(map(len, labels))
    lines = [
        f"{label:>{width}} │" + "".join(marks.get((row, i), chr(BLANK | bits)) for i, bits in enumerate(dots[row]))
        for row, label in enumerate(labels)
    ]
    ends = f"{left:,.0f}".ljust(columns - len(last := f"{right:,.0f}")) + last
    return [*lines, f"{'':>{width}} └{'─' * columns}", f"{'':>{width}}  {ends}"]


def place(value: float, low: float, high: float, count: int) -> int:
    """Return the number of the one of `count` equal parts of low..high that holds a value."""
    share = (value - low) / (high - low) if high > low else 0.5
    return min(count - 1, int(share * count))
