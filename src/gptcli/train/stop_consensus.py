"""The decisions that all ranks must share after a step: to stop because of a signal, to end the run, and when.

A signal reaches the ranks at different moments, and only the first rank reads the clock of a deadline. One small
message after each step makes them agree.
"""

from __future__ import annotations

from gptcli.parallel.world import World
from gptcli.train.signals import STOP_SIGNALS, StopRequest
from gptcli.train.time_budget import RunLength


class StopConsensus:
    """The ranks' common decision to stop or to end, made by `update`, which all of them call after each step."""

    def __init__(self, world: World, stop: StopRequest, length: RunLength) -> None:
        self.world, self.stop, self.length = world, stop, length
        self.agreed_signum: int | None = None

    @property
    def signum(self) -> int | None:
        """The signal that asks to stop, or None. A process that is alone need not wait for the next update."""
        return self.stop.signum if self.world.size == 1 else self.agreed_signum

    def update(self, step: int) -> bool:
        """Agree on what follows `step`, and return whether the run ends with it."""
        numbers = [int(self.stop.signum == signum) for signum in STOP_SIGNALS]
        # The others add nothing to the first rank's numbers.
        planned = [int(self.length.is_over(step)), *self.length.scale.breakpoints[-1]]
        numbers += planned if self.world.is_first else [0, 0, 0]
        *signals, is_over, start, end = self.world.sum(numbers)
        self.agreed_signum = next((signum for signum, ranks in zip(STOP_SIGNALS, signals, strict=True) if ranks), None)
        self.length.follow(start, end)
        return is_over > 0

    def is_stop_wanted(self) -> bool:
        """Return whether a signal asks any rank to stop; all ranks call this equally often."""
        return self.world.any(self.stop.signum is not None)
