"""Tables of figures, for a terminal and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Table:
    """A heading, columns (the first names the row, the others hold figures), and notes on what the figures are."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def text(self) -> str:
        """Return the table for a terminal: the first column aligned to the left, the others to the right."""
        cells = [list(self.columns), *map(list, self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = [self.heading, ""]
        for row in cells:
            first, *others = (f"{cell:{'>' if i else '<'}{widths[i]}}" for i, cell in enumerate(row))
            lines.append("  ".join([first, *others]).rstrip())
        return "\n".join([*lines, *([""] if self.notes else []), *self.notes])

    def markdown(self) -> str:
        """Return the table in Markdown, below its heading and above its notes."""
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        rows = [f"| {' | '.join(row)} |" for row in (self.columns, rule, *self.rows)]
        return "\n".join([f"### {self.heading}", "", *rows, *(["", " ".join(self.notes)] if self.notes else [])])


def shown(names: Sequence[str]) -> str:
    """Return names for a heading; an existing path is shortened to its last part."""
    return " ".join(Path(name).name if Path(name).exists() else name for name in names)


def figure(value: float | None, unit: str = "") -> str:
    """Format a number with three significant digits: `0.0421`, `1.35`, `28.4 s`, `26,600`; a dash for None."""
    if value is None or not math.isfinite(value):
        return "-"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    rounded = round(value, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{rounded:,.{digits}f} {unit}".rstrip()


def percent(value: float | None) -> str:
    """Format a fraction as a percentage; a dash for None."""
    return "-" if value is None else f"{100 * value:.0f} %"


def times(ratio: dict[str, float] | None) -> str:
    """Format a ratio with the lowest and highest of its rounds: `1.62x (1.58 to 1.66)`; a dash for None."""
    return "-" if ratio is None else f"{ratio['median']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})"
