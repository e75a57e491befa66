"""The time budget of a run: `10m` as seconds, and a clock that counts from the start of the process.

This module does not import torch, since the import takes time that counts.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from gptcli.errors import UsageError

UNITS = {
    "d": (86400.0, r"d(?:ays?)?"),
    "h": (3600.0, r"h(?:ours?|rs?)?"),
    "m": (60.0, r"m(?:in(?:ute)?s?)?"),
    "s": (1.0, r"s(?:ec(?:ond)?s?)?"),
}
"""The seconds of each unit, and a pattern of its names."""
DURATION = re.compile("".join(rf"(?:(?P<{unit}>\d+(?:\.\d+)?){words})?" for unit, (_, words) in UNITS.items()))
LONGEST_SECONDS = 366 * 86400.0


def parse_duration(text: str, option: str = "--time") -> float:
    """Return the seconds of a duration such as `90s`, `10m`, `5min`, `1h30m`, `1.5 hours` or `1d`.

    Raises:
        UsageError: the text is not a duration, or it is zero or longer than a year.
    """
    match = DURATION.fullmatch("".join(text.split()).lower())
    found = match.groupdict() if match else {}
    seconds = sum(float(count) * UNITS[unit][0] for unit, count in found.items() if count)
    if not 0 < seconds <= LONGEST_SECONDS:
        raise UsageError(f"{option} {text!r} is not a duration", "write one as 90s, 10m, 1h30m or 1d")
    return seconds


def process_began() -> float:
    """Return the start of this process on `time.monotonic()`; now, where the system does not provide it.

    Field 22 of /proc/self/stat is that moment since boot (proc_pid_stat(5)), by a clock that also runs during sleep.
    """
    now = time.monotonic()
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return now
    return now - max(0.0, age)


class Clock:
    """Counts the seconds of a budget from `began`, on the clock `now`."""

    def __init__(self, seconds: float, began: float, now: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.began, self.now = seconds, began, now

    def spent(self) -> float:
        """Return the seconds since the budget began."""
        return self.now() - self.began

    def remaining(self) -> float:
        """Return the seconds until the deadline; negative after it."""
        return self.seconds - self.spent()
