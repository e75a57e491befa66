"""What all ranks must do alike after a step: stop because a signal asks for it, end, and on which course.

A signal reaches the ranks at different moments, and the clock of a deadline is read by the first rank only. One small
message after each step makes them agree. A process that is alone asks nobody.
"""

from __future__ import annotations

from gptcli.parallel.world import World
from gptcli.train.pace import Pace
from gptcli.train.signals import STOP_SIGNALS, StopRequest


class Agreement:
    """Asked after each step by `renew`, which all ranks call; its answers hold until the next one."""

    def __init__(self, world: World, stop: StopRequest, pace: Pace) -> None:
        self.world, self.stop, self.pace = world, stop, pace
        self.received: int | None = None

    @property
    def signum(self) -> int | None:
        """The signal that asks to stop, if one does."""
        return self.stop.signum if self.world.size == 1 else self.received

    def renew(self, step: int) -> bool:
        """Whether the run ends with `step`."""
        if self.world.size == 1:
            return self.pace.is_over(step)
        numbers = [int(self.stop.signum == signum) for signum in STOP_SIGNALS]
        # Only the first rank has a clock; what the others add to its numbers is 0.
        numbers += [int(self.pace.is_over(step)), *self.pace.course.knots[-1]] if self.world.is_first else [0, 0, 0]
        *signals, is_over, start, end = self.world.sum(numbers)
        self.received = next((signum for signum, ranks in zip(STOP_SIGNALS, signals, strict=True) if ranks), None)
        self.pace.follow(start, end)
        return is_over > 0

    def is_stop_wanted(self) -> bool:
        """Whether a signal asks to stop, now; all ranks call it equally often."""
        return self.world.any(self.stop.signum is not None)
