"""How a contest is held, whatever is measured. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from gptcli.errors import UsageError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Setting:
    """Rounds, threads and device, the same for every contender."""

    rounds: int = 5
    seconds: float = 2.0
    """How long a contender's part of a round lasts about."""
    threads: int = 1
    device: str = "auto"


def parse_list(text: str, parse: Callable[[str], Item], option: str) -> tuple[Item, ...]:
    """The items of `A,B,C`, each read by `parse`, which raises ValueError with what would be right.

    Raises:
        UsageError: an item cannot be read, or there is none.
    """
    try:
        return tuple(parse(item.strip()) for item in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} {text!r}: {error}") from error


def positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is not a whole number above 0")
    return int(text)
