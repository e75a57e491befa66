"""The time that a run may take: `10m` as seconds, and a clock that counts it from the start of the process.

Knows no step and no model; imports no torch, since importing it takes time that counts.
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
"""The seconds of each unit, and a pattern of the words by which people call it."""
DURATION = re.compile("".join(rf"(?:(?P<{unit}>\d+(?:\.\d+)?){words})?" for unit, (_, words) in UNITS.items()))
LONGEST_SECONDS = 366 * 86400.0


def parse_duration(text: str) -> float:
    """`90s`, `10m`, `5min`, `1h30m`, `1.5 hours`, `1d` -> seconds.

    Raises:
        UsageError: the text is not a duration, is no time at all, or is longer than a year.
    """
    match = DURATION.fullmatch("".join(text.split()).lower())
    found = match.groupdict() if match else {}
    seconds = sum(float(count) * UNITS[unit][0] for unit, count in found.items() if count)
    if not 0 < seconds <= LONGEST_SECONDS:
        raise UsageError(f"--time {text!r} is not a duration", "write one as 90s, 10m, 1h30m or 1d")
    return seconds


def process_began() -> float:
    """When this process began, as `time.monotonic()` counts; where the system does not tell, now.

    Field 22 of /proc/self/stat is that moment since boot (proc_pid_stat(5)), by a clock that goes on in sleep.
    """
    now = time.monotonic()
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return now
    return now - max(0.0, age)


class Clock:
    """Counts the seconds of a budget, from `began` as `now()` tells time."""

    def __init__(self, seconds: float, began: float, now: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.began, self.now = seconds, began, now

    def spent(self) -> float:
        return self.now() - self.began

    def remaining(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self.seconds - self.spent()
