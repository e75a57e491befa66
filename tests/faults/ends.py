"""Checks of how a command has ended: with which exit code, what it printed, and how much memory it took."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from faults.nursery import Command


class Bounds(NamedTuple):
    """Limits that a command must keep to.

    Attributes:
        seconds: time after which it is taken to wait for something, and is killed.
        growth: bytes of memory beyond what the process had when it was forked.
        line: characters of the last line on stderr.
    """

    seconds: float
    growth: int
    line: int


def wrong_end(command: Command, codes: Collection[int], bounds: Bounds, idle: int) -> Iterator[str]:
    """Wait for a command, and yield every way in which it did not end as it should.

    Args:
        codes: the exit codes that it may have.
        idle: bytes of memory that the process had when it was forked.
    """
    try:
        code = command.wait(bounds.seconds)
    except TimeoutError:
        yield f"it was still running after {bounds.seconds:g} s"
        return
    if code not in codes:
        yield f"exit {code}: {command.last_line[:300]}"
    if "Traceback" in command.said or len(command.last_line) > bounds.line:
        yield f"not one line: {command.last_line[:300]}"
    if command.peak_bytes - idle > bounds.growth:
        yield f"{command.peak_bytes - idle:,} bytes of memory"


def parse_strict(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for NaN and Infinity, which Python reads and JSON does not have."""

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def wrong_json(text: str) -> Iterator[str]:
    """The fault of a text that should be JSON, if it has one."""
    try:
        parse_strict(text)
    except ValueError as error:
        yield f"no strict JSON: {error}"
