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

DURATION = re.compile(r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s)?")
SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def parse_duration(text: str) -> float:
    """`90s`, `10m`, `1h30m`, `1.5h` -> seconds.

    Raises:
        UsageError: it is none of these, or no time at all.
    """
    match = DURATION.fullmatch("".join(text.split()).lower())
    seconds = sum(float(count) * SECONDS[unit] for unit, count in match.groupdict().items() if count) if match else 0
    if seconds <= 0:
        raise UsageError(f"--time {text!r} is not a duration", "write one as 90s, 10m or 1h30m")
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
