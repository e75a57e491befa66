"""How a contest is held, whatever is measured. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """Rounds, threads and device, the same for every contender."""

    rounds: int = 5
    seconds: float = 2.0
    """How long a contender's part of a round lasts about."""
    threads: int = 1
    device: str = "auto"
