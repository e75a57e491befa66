"""The length of a run, in steps or by a clock, and the progress within it.

A run under a deadline cannot know its number of steps. It keeps breakpoints (step, end) instead: from `step` on, it was
planned to end with step `end`. The learning rate, and events every so many steps, follow a position that moves evenly
to the planned end, so that they are at their end when the run is, however the machine's speed changes. Breakpoints are
whole numbers, so a run that is given them passes the same positions to the last bit.
"""

from __future__ import annotations

import bisect
import statistics
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from gptcli.train.clock import Clock
from gptcli.train.train_state import Breakpoints, TrainState

REPLAN_PART = 0.01
"""The part of the budget after which the end is planned again (at least one second)."""
RECENT_PLANS, RECENT_STEPS = 4, 8
"""The seconds of a step are the mean over the steps between so many plans, and over at least so many steps."""
CHANGE = 0.005
"""A new end is set if it differs from the old one by at least this part of the steps that are left."""
HICCUP = 3.0
"""A step that took longer than this many medians counts as so many: a single stall predicts nothing."""
MARGIN, MARGIN_SECONDS = 0.005, 0.6
"""The part of the budget, and the seconds for the process to end, by which a run ends before its deadline."""
FORWARD_PART = 0.4
"""The seconds to evaluate a token over those to train on it, until an evaluation is timed: a third and a little."""


class ProgressScale:
    """The positions that a run passes, computed from its breakpoints."""

    def __init__(self, breakpoints: Breakpoints) -> None:
        self.breakpoints = breakpoints
        self.length = breakpoints[0][1]
        """The end of the scale: the number of steps of the first plan."""
        self.starts = [start for start, _ in breakpoints]
        self.bases: list[float] = [0.0]
        for start in self.starts[1:]:
            self.bases.append(self.after(len(self.bases) - 1, start))

    def position(self, step: int) -> float:
        """Return the position of `step` between 0 and `length`; it is `step` itself while there is one breakpoint."""
        return self.after(max(0, bisect.bisect_left(self.starts, step) - 1), step)

    def after(self, number: int, step: int) -> float:
        """Return the position of `step` as it was planned at the breakpoint of this number."""
        (start, end), base = self.breakpoints[number], self.bases[number]
        return base + (self.length - base) * (min(max(step, start), end) - start) / (end - start)


class RunLength:
    """The length of a run that reads no clock: a number of steps, or the end that the first rank plans."""

    def __init__(self, breakpoints: Breakpoints, *, last_step: int | None = None) -> None:
        """
        Args:
            breakpoints: the plan so far.
            last_step: the end of the run where it is fixed; None: the last breakpoint has it.
        """
        self.scale, self.last_step = ProgressScale(breakpoints), last_step

    @property
    def end(self) -> int:
        """The last step, as planned now."""
        return self.last_step or self.scale.breakpoints[-1][1]

    def is_over(self, step: int) -> bool:
        """Return whether the run ends with `step`."""
        return step >= self.end

    def is_due(self, step: int, every: int) -> bool:
        """Return whether an event of every `every` positions (0: never) happens after `step`.

        Positions are the steps of the first plan, so a run on a machine that is slower than planned still has as many
        evaluations, only closer together.
        """
        return every > 0 and self.scale.position(step) // every > self.scale.position(step - 1) // every

    def follow(self, start: int, end: int) -> None:
        """Add the breakpoint of another process: from step `start` on, the run is to end with step `end`."""
        if self.scale.breakpoints[-1] != (start, end):
            kept = (point for point in self.scale.breakpoints if point[0] < start)
            self.scale = ProgressScale((*kept, (start, end)))

    def resume(self, breakpoints: Breakpoints) -> None:
        """Continue with the breakpoints of a checkpoint; without any, the plan stays."""
        if breakpoints:
            self.scale = ProgressScale(breakpoints)

    def timing(self, name: str) -> AbstractContextManager[None]:
        """Return a context that measures one occurrence of the event `name`."""
        return nullcontext()

    def add_timing(self, name: str, seconds: float) -> None:
        """Record the seconds of one occurrence of the event `name`, which runs beside the training."""

    def lap(self, step: int) -> None:
        """Note that `step` and the events after it are done."""

    def save(self, state: TrainState) -> None:
        """Write into `state` what a resumed run needs to know of this one's time."""


class TimeBudget(RunLength):
    """The end of a run that a clock ends: `lap` plans it again from how long steps and events take."""

    def __init__(
        self,
        breakpoints: Breakpoints,
        clock: Clock,
        *,
        most_steps: int | None = None,
        intervals: Mapping[str, int] | None = None,
        closing: Mapping[str, float] | None = None,
        tokens: tuple[int, int] = (1, 1),
    ) -> None:
        """
        Args:
            breakpoints: the plan so far.
            most_steps: the step after which the run ends even if time is left.
            intervals: event -> positions between two occurrences (0: it never occurs).
            closing: event -> its number of occurrences, or of equally long ones, after the last step.
            tokens: the tokens of one "evaluate" and of one step, for the estimate until an evaluation is timed.
        """
        super().__init__(breakpoints)
        self.clock, self.most_steps = clock, most_steps
        self.intervals, self.closing = dict(intervals or {}), dict(closing or {})
        self.evaluated_tokens, self.step_tokens = tokens
        self.timings: dict[str, list[float]] = {name: [] for name in {*self.intervals, *self.closing}}
        self.laps: deque[float] = deque(maxlen=4096)
        self.step_seconds = self.in_events = 0.0
        self.is_first_lap = True
        self.interval = max(1.0, REPLAN_PART * clock.seconds)
        self.lap_began = clock.spent()
        self.next_plan = self.lap_began + self.interval

    def is_over(self, step: int) -> bool:
        """Return whether the run ends with `step`: as planned, or because no time is left for another step."""
        return super().is_over(step) or self.clock.remaining() < self.closing_seconds() + self.step_seconds

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Measure the time of a block under a name."""
        began = self.clock.spent()
        yield
        seconds = self.clock.spent() - began
        self.add_timing(name, seconds)
        self.in_events += seconds

    def add_timing(self, name: str, seconds: float) -> None:
        """Add the seconds of a block under a name."""
        self.timings[name].append(seconds)

    def lap(self, step: int) -> None:
        """Note that `step` and the events after it are done; plan the end again if it is time to."""
        now = self.clock.spent()
        if not self.is_first_lap:  # The first step allocates, and may compile.
            self.laps.append(now - self.lap_began - self.in_events)
        self.is_first_lap, self.lap_began, self.in_events = False, now, 0.0
        if now >= self.next_plan and len(self.laps) >= 3 and step < self.end:
            self.next_plan = now + self.interval
            self.step_seconds = self.recent_step_seconds()
            self.plan(step)

    def save(self, state: TrainState) -> None:
        """Save the progress into the state."""
        state.spent_seconds, state.knots = self.clock.spent(), self.scale.breakpoints

    def plan(self, step: int) -> None:
        """Set the end to the last step that there is time for, if that changes it enough for a breakpoint."""
        left = self.scale.length - self.scale.position(step)
        events = [(left // every, self.event_seconds(name)) for name, every in self.intervals.items() if every]
        end = step + self.steps_within(self.clock.remaining() - self.closing_seconds(), events)
        if self.most_steps is not None:
            end = min(end, self.most_steps)
        if abs(end - self.end) > CHANGE * (self.end - step):
            self.follow(step, end)

    def steps_within(self, seconds: float, events: Sequence[tuple[float, float]]) -> int:
        """Return the most steps, at least one, that fit into `seconds` with events of (occurrences, seconds of one).

        No event occurs more than once a step, so that one which was planned for a short run leaves time for the steps
        of a longer one.
        """
        fewest, most = 1, max(1, int(seconds / max(self.step_seconds, 1e-9)))
        while fewest < most:
            middle = (fewest + most + 1) // 2
            needed = middle * self.step_seconds + sum(min(middle, count) * each for count, each in events)
            fewest, most = (middle, most) if needed <= seconds else (fewest, middle - 1)
        return fewest

    def recent_step_seconds(self) -> float:
        """Return the seconds of a step without its events, from the latest steps."""
        recent: list[float] = []
        wanted, total = RECENT_PLANS * self.interval, 0.0
        for seconds in reversed(self.laps):
            recent.append(seconds)
            total += seconds
            if total >= wanted and len(recent) >= RECENT_STEPS:
                break
        bound = HICCUP * statistics.median(recent)
        return statistics.fmean(min(seconds, bound) for seconds in recent)

    def event_seconds(self, name: str) -> float:
        """Return the seconds of one occurrence: the slower of the last two; an estimate before the first."""
        if self.timings[name]:
            return max(self.timings[name][-2:])
        if name == "evaluate":
            return FORWARD_PART * self.step_seconds * self.evaluated_tokens / self.step_tokens
        return self.step_seconds

    def closing_seconds(self) -> float:
        """Return the seconds to keep for the end: those of all that follows the last step, and a margin."""
        after = sum(times * self.event_seconds(name) for name, times in self.closing.items())
        return after + MARGIN * self.clock.seconds + MARGIN_SECONDS
