"""Messages for the person at the terminal: stdout is for data, stderr for messages and progress (a tqdm bar, or plain
lines off a terminal).
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from tqdm import tqdm

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that a terminal obeys and does not show: the control characters of Unicode (category Cc) except newline
and tab, line and paragraph separators, those that change the direction of text, and surrogates."""
LONGEST_ERROR = 4_000
"""Characters of an error message. A user can type a word of 128 kB, and messages repeat what was typed."""
CURSOR = re.compile(r"\n+|(\x1b\[A)+")
"""Matches the texts that tqdm writes to move the cursor between its bars."""


def visible(text: str) -> str:
    r"""Return `text` as it is printed for a person: each CONTROL character as `\uXXXX`, all others unchanged.

    Names of files, tokens, columns and models, generated text and messages of libraries come from others, who could
    otherwise clear the screen, change what it shows, or write to the clipboard.
    """
    return CONTROL.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


class VisibleStream:
    """A text stream that writes `visible` text; in all other respects it is the stream that it wraps.

    Args:
        stream: the stream to write to.
        has_bars: whether tqdm writes progress bars to it too: their carriage return at the beginning or the end of a
            write, and the codes that move the cursor to another bar, are not changed.
    """

    def __init__(self, stream: Any, has_bars: bool) -> None:
        self.stream, self.has_bars = stream, has_bars

    def write(self, text: str) -> int:
        """Write a text, and return its length."""
        if not self.has_bars:
            self.stream.write(visible(text))
        elif CURSOR.fullmatch(text):
            self.stream.write(text)
        else:
            inside = text.strip("\r")
            before, _, after = text.partition(inside) if inside else (text, "", "")
            self.stream.write(before + visible(inside) + after)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def protect_terminal() -> None:
    """Pass everything that this process prints through `visible`: stderr always, stdout if it is a terminal.

    A file or a pipe gets exactly what is written to stdout.
    """
    if sys.stderr is not None:
        sys.stderr = VisibleStream(sys.stderr, has_bars=True)
    if sys.stdout is not None and not sys.stdout.closed and sys.stdout.isatty():
        sys.stdout = VisibleStream(sys.stdout, has_bars=False)


def silence() -> None:
    """Print no more messages and no progress: of several processes that do the same work, one prints them."""
    Progress.is_silent = True


def say(message: str = "") -> None:
    """Print one message to stderr, above a progress bar if one is shown."""
    if Progress.is_silent:
        return
    message = visible(message)
    bar = Progress.active
    if bar is not None and bar.bar is not None:
        bar.bar.write(message, file=sys.stderr)
    else:
        print(message, file=sys.stderr, flush=True)


def say_error(message: object) -> None:
    """Print the line with which a command ends in an error, without the middle of a very long one."""
    line = f"gptcli: {message}"
    if len(line) > LONGEST_ERROR:
        line = f"{line[: LONGEST_ERROR // 2]} [...] {line[-LONGEST_ERROR // 2 :]}"
    print(visible(line), file=sys.stderr, flush=True)


def show(text: str) -> None:
    """Print a result for people to stdout: lines and tables that may hold names chosen by others."""
    print(visible(text))


def has_colours() -> bool:
    """Return whether stdout is a terminal that shows colours, and the user has not asked for none (no-color.org)."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not is_plain and sys.stdout is not None and sys.stdout.isatty()


def show_coloured(parts: Iterable[tuple[str, int | None]]) -> None:
    """Print a result for people to stdout in colours: texts, each with a number of ANSI's SGR or None."""
    stream = sys.stdout.stream if isinstance(sys.stdout, VisibleStream) else sys.stdout
    codes = ((visible(text), code) for text, code in parts)
    print("".join(text if code is None else f"\x1b[{code}m{text}\x1b[0m" for text, code in codes), file=stream)


BAR_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {remaining} left"
BAR_COLUMNS = 44
"""Columns of a progress bar without its description and its figures: the bar itself, counts and time."""


def terminal_columns() -> int:
    """Return the number of columns of the terminal, or 80 if stderr is not a terminal."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


class Progress:
    """Progress of a long piece of work, on stderr.

    On a terminal it is a tqdm bar; elsewhere one plain line every `interval` seconds, so that a log file stays
    readable. It is a context manager; `update(n, **figures)` advances by n and shows the figures beside the rate.
    """

    active: Progress | None = None
    is_silent = False
    """Whether this process prints nothing, see `silence`."""

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
        self.bar: tqdm[Any] | None = None
        self.paced_from: tuple[int, float] | None = None
        """Count and time of the first update. Estimates leave out the time before it, as for example a compilation."""

    def __enter__(self) -> Self:
        self.began = self.said = time.monotonic()
        if sys.stderr.isatty() and not self.is_silent:
            from tqdm import tqdm

            self.bar = tqdm(
                total=self.total,
                initial=self.count,
                desc=visible(self.description),
                unit=self.unit,
                unit_scale=self.scale,
                dynamic_ncols=True,
                file=sys.stderr,
                leave=False,
            )
        Progress.active = self
        return self

    def __exit__(self, *error: object) -> None:
        Progress.active = None
        if self.bar is not None:
            self.bar.close()

    def update(self, n: int = 1, **figures: str) -> None:
        """Advance by n, and show these figures beside the rate from now on."""
        self.count += n
        self.figures = figures or self.figures
        self.paced_from = self.paced_from or (self.count, time.monotonic())
        if self.bar is not None:
            self.bar.set_postfix_str(visible(self.shown_figures(terminal_columns())), refresh=False)
            if self.total:
                self.bar.bar_format = BAR_FORMAT + ("{postfix}" if self.figures else ", {rate_fmt}")
            self.bar.update(n)
        elif time.monotonic() - self.said >= self.interval and not self.is_silent:
            self.said = time.monotonic()
            print(visible(self.line()), file=sys.stderr, flush=True)

    def shown_figures(self, columns: int) -> str:
        """Return the first of the figures that fit beside a bar in a terminal with this many columns."""
        shown = ""
        for name, value in self.figures.items():
            longer = f"{shown}, {name} {value}" if shown else f"{name} {value}"
            if len(self.description) + BAR_COLUMNS + len(longer) > columns:
                break
            shown = longer
        return shown

    def retarget(self, total: int) -> None:
        """Change the total."""
        self.total = total
        if self.bar is not None:
            self.bar.total = total

    def line(self) -> str:
        """Return the plain line: `train 120/2000 step, 14 s elapsed, 220 s left, loss 2.31`."""
        now = time.monotonic()
        first, since = self.paced_from or (self.count, now)
        amount = f"{self.count:,}/{self.total:,}" if self.total else f"{self.count:,}"
        parts = [f"{self.description} {amount} {self.unit}", f"{duration(now - self.began)} elapsed"]
        if self.total and self.count > first:
            parts.append(f"{duration((now - since) / (self.count - first) * (self.total - self.count))} left")
        return ", ".join(parts + [f"{name} {value}" for name, value in self.figures.items()])


def duration(seconds: float) -> str:
    """Return a duration for people: `0.8 s`, `42 s`, `3 min 20 s`, `5 h 12 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def shell_word(value: object) -> str:
    """Return a path or a text as one word of a command that a person may copy, quoted where the shell needs it."""
    return shlex.quote(str(value))


def quantity(number: int, thing: str) -> str:
    """Return a number of things for people: `1 layer`, `1,200 layers`. `thing` is the singular; its plural takes an
    s.
    """
    return f"{number:,} {thing}{'s' * (number != 1)}"


def rounded(value: float) -> str:
    """Return a positive number for people, to two digits or whole, never in powers of ten: `0.62`, `5.3`, `12,400`."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.2g}" if value >= 1e-4 else "0"


def size(count: float, unit: str = "B") -> str:
    """Return a count for people in powers of 1000: `1.12 MB`, `124 M`."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(count) < 999.5:
            digits = f"{count:.0f}" if prefix == "" else f"{count:.3g}"
            return f"{digits} {prefix}{unit}".rstrip()
        count /= 1000
    return f"{count:.3g} P{unit}"
