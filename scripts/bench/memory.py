"""The time and the peak memory of a command and of all processes that it starts (Linux)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PAUSE_SECONDS = 0.1
"""Pause between two readings of the memory."""


class Usage(NamedTuple):
    """The resources that a command used until it exited or was killed."""

    seconds: float
    proportional_bytes: int
    """Peak of the sum of the processes' PSS: memory that several share counts once."""
    resident_bytes: int
    """Peak of the sum of their RSS: shared memory counts for each."""
    status: int
    output: str
    errors: str


def watch(command: Sequence[str], environment: Mapping[str, str], kill_after: float | None = None) -> Usage:
    """Run a command and read its memory now and then; with `kill_after` send it SIGKILL after so many seconds."""
    began, peaks = time.perf_counter(), [0, 0]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None:
            peaks = [max(pair) for pair in zip(peaks, memory_of(process.pid), strict=True)]
            if kill_after is not None and time.perf_counter() - began > kill_after:
                process.kill()
            time.sleep(PAUSE_SECONDS)
        seconds = time.perf_counter() - began
        output, errors = process.communicate()
    return Usage(seconds, *peaks, process.returncode, output, errors)


def memory_of(process: int) -> tuple[int, int]:
    """Return (sum of PSS, sum of RSS) in bytes of a process and its descendants; zeros if the system reports none."""
    sums = {"Pss:": 0, "Rss:": 0}
    for number in family(process):
        with suppress(OSError):  # it has exited meanwhile
            for line in Path(f"/proc/{number}/smaps_rollup").read_text().splitlines():
                name, *values = line.split()
                if name in sums:
                    sums[name] += int(values[0]) * 1024
    return sums["Pss:"], sums["Rss:"]


def family(process: int) -> list[int]:
    """Return the ids of a process and its descendants."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found, to_look_at = [], [process]
    while to_look_at:
        number = to_look_at.pop()
        found.append(number)
        to_look_at += children.get(number, [])
    return found
