"""A clock that does not depend on how busy the machine is."""

from __future__ import annotations

import time

import pytest

from gptcli.train.clock import Clock
from gptcli.train.planning import plan, probe


class TickingClock(Clock):
    """A clock that advances by a twentieth of a second whenever it is read.

    It begins at 0, or at the seconds by which `began` is more than a minute ago: what a resumed run spent before.
    """

    def __init__(self, seconds: float, began: float) -> None:
        self.used = max(0.0, time.monotonic() - began - 60)
        super().__init__(seconds, 0.0, self.tick)

    def tick(self) -> float:
        self.used += 0.05
        return self.used


def set_ticking(monkeypatch: pytest.MonkeyPatch, step_seconds: float) -> None:
    """Let budgets be counted by a `TickingClock`, and let every probe measure steps of `step_seconds`."""
    monkeypatch.setattr(plan, "Clock", TickingClock)
    set_step_seconds(monkeypatch, step_seconds)


def set_step_seconds(monkeypatch: pytest.MonkeyPatch, step_seconds: float) -> None:
    """Let every probe measure steps of `step_seconds`."""
    for module in (probe, plan):
        monkeypatch.setattr(module, "step_seconds", lambda *arguments: step_seconds)
