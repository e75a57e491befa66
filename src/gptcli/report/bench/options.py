"""Options that all benches share, and the parsing of options that are lists. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from gptcli.errors import UsageError

Item = TypeVar("Item")


@dataclass(frozen=True)
class BenchOptions:
    """Rounds, threads and device, the same for every contender."""

    rounds: int = 5
    seconds: float = 2.0
    """Approximate duration of a contender's part of a round."""
    threads: int = 1
    device: str = "auto"


def parse_list(text: str, parse: Callable[[str], Item], option: str) -> tuple[Item, ...]:
    """Return the items of `A,B,C`, each read by `parse`, whose ValueError says what is allowed.

    Raises:
        UsageError: an item cannot be read, or the list is empty.
    """
    try:
        return tuple(parse(item.strip()) for item in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} {text!r}: {error}") from error


def positive_int(text: str) -> int:
    """Read a whole number above 0.

    Raises:
        ValueError: the text is something else.
    """
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is not a whole number above 0")
    return int(text)


def positive_number(text: str) -> float:
    """Read a finite number above 0.

    Raises:
        ValueError: the text is something else.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{text!r} is not a number above 0")
    return value
