"""What the command says to the person: stdout is data, stderr is talk (a tqdm bar, or plain lines off a terminal)."""

from __future__ import annotations

import os
import shlex
import sys
import time
from types import TracebackType
from typing import Self


def silence() -> None:
    """Say nothing more, and show no progress: of several processes that do the same work only one talks."""
    Progress.is_silent = True


def say(message: str = "") -> None:
    """Print one message to stderr, above a progress bar if one is shown."""
    if Progress.is_silent:
        return
    bar = Progress.active
    if bar is not None and bar.bar is not None:
        bar.bar.write(message, file=sys.stderr)
    else:
        print(message, file=sys.stderr, flush=True)


BAR_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {remaining} left"
BAR_COLUMNS = 44
"""Columns of a progress bar without its description and its figures: the bar itself, counts and time."""


def terminal_columns() -> int:
    """Columns of the terminal on stderr; 80 where there is none."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


class Progress:
    """Progress of a long piece of work, on stderr.

    On a terminal it is a tqdm bar; elsewhere one plain line every `interval` seconds, so that a log file stays
    readable. Use as a context manager; `update(n, **figures)` advances by n and shows the figures beside the rate.
    """

    active: Progress | None = None
    is_silent = False
    """Whether this process is to say nothing, see `silence`."""

    def __init__(
        self,
        description: str,
        total: int | None = None,
        *,
        unit: str = "it",
        initial: int = 0,
        interval: float = 10.0,
        scale: bool = False,
    ) -> None:
        self.description, self.total, self.unit, self.interval = description, total, unit, interval
        self.count, self.scale = initial, scale
        self.figures: dict[str, str] = {}
        self.bar = None
        self.paced_from: tuple[int, float] | None = None
        """Count and time of the first update: what comes before it, a compilation say, is no measure of the rest."""

    def __enter__(self) -> Self:
        self.began = self.said = time.monotonic()
        if sys.stderr.isatty() and not self.is_silent:
            from tqdm import tqdm

            self.bar = tqdm(
                total=self.total,
                initial=self.count,
                desc=self.description,
                unit=self.unit,
                unit_scale=self.scale,
                dynamic_ncols=True,
                file=sys.stderr,
                leave=False,
            )
        Progress.active = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        Progress.active = None
        if self.bar is not None:
            self.bar.close()

    def update(self, n: int = 1, **figures: str) -> None:
        self.count += n
        self.figures = figures or self.figures
        self.paced_from = self.paced_from or (self.count, time.monotonic())
        if self.bar is not None:
            self.bar.set_postfix_str(self.shown_figures(terminal_columns()), refresh=False)
            if self.total:
                self.bar.bar_format = BAR_FORMAT + ("{postfix}" if self.figures else ", {rate_fmt}")
            self.bar.update(n)
        elif time.monotonic() - self.said >= self.interval and not self.is_silent:
            self.said = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def shown_figures(self, columns: int) -> str:
        """The first of the figures that fit beside a bar in a terminal of so many columns."""
        shown = ""
        for name, value in self.figures.items():
            longer = f"{shown}, {name} {value}" if shown else f"{name} {value}"
            if len(self.description) + BAR_COLUMNS + len(longer) > columns:
                break
            shown = longer
        return shown

    def retarget(self, total: int) -> None:
        """Let it end at another number than it was begun with."""
        self.total = total
        if self.bar is not None:
            self.bar.total = total

    def line(self) -> str:
        """The plain line: `train 120/2000 step, 14 s gone, 220 s left, loss 2.31`."""
        now = time.monotonic()
        first, since = self.paced_from or (self.count, now)
        amount = f"{self.count:,}/{self.total:,}" if self.total else f"{self.count:,}"
        parts = [f"{self.description} {amount} {self.unit}", f"{duration(now - self.began)} gone"]
        if self.total and self.count > first:
            parts.append(f"{duration((now - since) / (self.count - first) * (self.total - self.count))} left")
        return ", ".join(parts + [f"{name} {value}" for name, value in self.figures.items()])


def duration(seconds: float) -> str:
    """A duration for people: `0.8 s`, `42 s`, `3 min 20 s`, `5 h 12 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def shell_word(value: object) -> str:
    """A path or a text as one word of a command that a person may copy: quoted where the shell needs it."""
    return shlex.quote(str(value))


def quantity(number: int, thing: str) -> str:
    """A number of things for people: `1 layer`, `1,200 layers`; `thing` is one of them, and takes an s."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def rounded(value: float) -> str:
    """A positive number for people, to two digits or a whole, never in powers of ten: `0.62`, `5.3`, `12,400`."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.2g}" if value >= 1e-4 else "0"


def size(count: float, unit: str = "B") -> str:
    """A count for people in powers of 1000: `1.12 MB`, `124 M`."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(count) < 999.5:
            digits = f"{count:.0f}" if prefix == "" else f"{count:.3g}"
            return f"{digits} {prefix}{unit}".rstrip()
        count /= 1000
    return f"{count:.3g} P{unit}"
