"""How far a run has come, and when it ends: by a number of steps, or by a clock that is read again and again.

A run under a deadline cannot know its number of steps. It keeps knots (step, end) instead: from `step` on the plan was
to end with step `end`. The learning rate, and what happens every so many steps, follow a place that moves evenly to
the planned end, so that they are at their end when the run is, however the machine's speed changes; and since knots
are whole numbers, a run that is given them passes the same places to the last bit. Knows seconds and steps, no model.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from gptcli.train.clock import Clock

Knots = tuple[tuple[int, int], ...]
"""(step, end) pairs, the first at step 0, steps rising, every end after its step."""

LOOK_PART = 0.01
"""The plan is looked at anew after this part of the budget (after a second, if that is more)."""
RECENT_LOOKS, RECENT_STEPS = 4, 8
"""A step's time is the mean over the steps of so many looks, and over so many steps at least."""
CHANGE = 0.005
"""A new end is planned if it differs by this part of the steps that are left."""
HICCUP = 3.0
"""A step that took longer than this many medians counts as so many: a stall foretells nothing."""
MARGIN, MARGIN_SECONDS = 0.005, 0.6
"""Part of the budget, and seconds for the process to end, that are kept to be done before the deadline, not after."""
FORWARD_PART = 0.4
"""Seconds to evaluate a token over seconds to train on it, until an evaluation was timed: a third and a little."""


class Course:
    """The places that a run passes, from its knots."""

    def __init__(self, knots: Knots) -> None:
        self.knots = knots
        self.length = knots[0][1]
        """Where the scale ends: the number of steps that was planned first."""
        self.starts = [start for start, _ in knots]
        self.bases: list[float] = [0.0]
        for start in self.starts[1:]:
            self.bases.append(self.after(len(self.bases) - 1, start))

    def place(self, step: int) -> float:
        """Where `step` stands between 0 and `length`: exactly at `step` while there is one knot only."""
        return self.after(max(0, bisect.bisect_left(self.starts, step) - 1), step)

    def after(self, knot: int, step: int) -> float:
        """The place of `step` as it was planned at that knot."""
        (start, end), base = self.knots[knot], self.bases[knot]
        return base + (self.length - base) * (min(max(step, start), end) - start) / (end - start)


class Pace:
    """Where a run ends. Without a clock that is fixed; with one, `lap` plans it anew from how long things take.

    `lap` is called once after each step and all that followed it; `timing(NAME)` wraps what does not follow every step.
    """

    def __init__(
        self,
        knots: Knots,
        *,
        last_step: int | None = None,
        clock: Clock | None = None,
        most_steps: int | None = None,
        intervals: Mapping[str, int] | None = None,
        closing: Mapping[str, float] | None = None,
        tokens: tuple[int, int] = (1, 1),
    ) -> None:
        """
        Args:
            knots: what was planned so far.
            last_step: where the run ends, if that is fixed; else the knots say.
            most_steps: after which the run ends even if there is time for more.
            intervals: name -> places between two occurrences (0: it never comes).
            closing: name -> how often that thing, or its like, is done after the last step.
            tokens: of one "evaluate" and of one step, which tell what an evaluation takes until one was timed.
        """
        self.course, self.last_step, self.clock = Course(knots), last_step, clock
        self.most_steps = math.inf if most_steps is None else most_steps
        self.intervals, self.closing = dict(intervals or {}), dict(closing or {})
        self.evaluated_tokens, self.step_tokens = tokens
        self.timings: dict[str, list[float]] = {name: [] for name in {*self.intervals, *self.closing}}
        self.laps: deque[float] = deque(maxlen=4096)
        self.step_seconds = self.in_events = 0.0
        self.is_first_lap = True
        if clock is not None:
            self.interval = max(1.0, LOOK_PART * clock.seconds)
            self.lap_began = clock.spent()
            self.next_look = self.lap_began + self.interval

    @property
    def end(self) -> int:
        """The step after which the run ends, as planned now."""
        return self.last_step or self.course.knots[-1][1]

    def is_over(self, step: int) -> bool:
        """Whether `step` is the last one: as planned, or because no time is left for another."""
        if step >= self.end:
            return True
        return self.clock is not None and self.clock.remaining() < self.closing_seconds() + self.step_seconds

    def is_due(self, step: int, every: int) -> bool:
        """Whether what happens every `every` places (0: never) happens after `step`; places are steps as first planned.

        A run whose machine is slower than was thought then still sees as many evaluations, only closer together.
        """
        return every > 0 and self.course.place(step) // every > self.course.place(step - 1) // every

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Note how long this occurrence of `name` takes."""
        began = self.clock.spent() if self.clock else 0.0
        yield
        if self.clock:
            seconds = self.clock.spent() - began
            self.timings[name].append(seconds)
            self.in_events += seconds

    def lap(self, step: int) -> None:
        """`step` and what followed it are done; plan anew if it is time to."""
        if self.clock is None:
            return
        now = self.clock.spent()
        if not self.is_first_lap:  # The first step allocates, and may compile.
            self.laps.append(now - self.lap_began - self.in_events)
        self.is_first_lap, self.lap_began, self.in_events = False, now, 0.0
        if now >= self.next_look and len(self.laps) >= 3 and step < self.end:
            self.next_look = now + self.interval
            self.step_seconds = self.recent_step_seconds()
            self.plan(step)

    def plan(self, step: int) -> None:
        """Set the end to the last step that can be made in time, if that is worth a knot."""
        left = self.course.length - self.course.place(step)
        events = [(left // every, self.event_seconds(name)) for name, every in self.intervals.items() if every]
        end = min(step + self.steps_within(self.clock.remaining() - self.closing_seconds(), events), self.most_steps)
        if abs(end - self.end) > CHANGE * (self.end - step):
            self.follow(step, end)

    def steps_within(self, seconds: float, events: Sequence[tuple[int, float]]) -> int:
        """The most steps, at least one, that can be made in `seconds` with events of (occurrences, seconds of one).

        No event occurs more than once a step, so that an event which was planned for a short run does not leave a
        longer one without steps.
        """
        fewest, most = 1, max(1, int(seconds / max(self.step_seconds, 1e-9)))
        while fewest < most:
            middle = (fewest + most + 1) // 2
            cost = middle * self.step_seconds + sum(min(middle, count) * each for count, each in events)
            fewest, most = (middle, most) if cost <= seconds else (fewest, middle - 1)
        return fewest

    def follow(self, start: int, end: int) -> None:
        """Plan as another process has: from `start` on, to end with step `end`."""
        if self.course.knots[-1] != (start, end):
            self.course = Course((*(knot for knot in self.course.knots if knot[0] < start), (start, end)))

    def recent_step_seconds(self) -> float:
        """Seconds of a step by itself, from the latest ones."""
        recent: list[float] = []
        wanted, total = RECENT_LOOKS * self.interval, 0.0
        for seconds in reversed(self.laps):
            recent.append(seconds)
            total += seconds
            if total >= wanted and len(recent) >= RECENT_STEPS:
                break
        bound = HICCUP * statistics.median(recent)
        return statistics.fmean(min(seconds, bound) for seconds in recent)

    def event_seconds(self, name: str) -> float:
        """Seconds of one occurrence: the slower of the last two; before there was one, a guess."""
        if self.timings[name]:
            return max(self.timings[name][-2:])
        if name == "evaluate":
            return FORWARD_PART * self.step_seconds * self.evaluated_tokens / self.step_tokens
        return self.step_seconds

    def closing_seconds(self) -> float:
        """What is to be kept for the end: everything after the last step, and a margin."""
        after = sum(times * self.event_seconds(name) for name, times in self.closing.items())
        return after + MARGIN * self.clock.seconds + MARGIN_SECONDS
