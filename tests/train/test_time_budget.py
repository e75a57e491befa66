"""The schedule follows the clock: whatever the machine does, it is at its end when the time is up."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable

import pytest

from gptcli.train.clock import Clock
from gptcli.train.time_budget import ProgressScale, RunLength, TimeBudget
from gptcli.train.train_state import Breakpoints


class Machine:
    """A simulated machine and run: the clock moves only by what is done."""

    def __init__(self, seconds: float, step_seconds: Callable[[float], float], planned: int) -> None:
        self.time, self.step_seconds = 0.0, step_seconds
        self.clock = Clock(seconds, began=0.0, now=lambda: self.time)
        every = max(1, planned // 8)
        self.length = TimeBudget(
            ((0, planned),),
            self.clock,
            intervals={"evaluate": every, "save": every},
            closing={"evaluate": 3, "save": 2},
            tokens=(4096, 1024),
        )
        self.step = self.evaluations = 0
        self.last_steps: deque[float] = deque(maxlen=10)

    def do(self, name: str, seconds: float) -> None:
        with self.length.timing(name):
            self.time += seconds

    def run(self, evaluate: float, save: float, until: float = float("inf")) -> None:
        """The order of the trainer's loop."""
        while not self.length.is_over(self.step) and self.time < until:
            seconds = self.step_seconds(self.time)
            self.time += seconds
            self.last_steps.append(seconds)
            self.step += 1
            if self.length.is_over(self.step) or self.length.is_due(self.step, self.length.intervals["evaluate"]):
                self.evaluations += 1
                self.do("evaluate", evaluate)
                self.do("save", save)
            self.length.lap(self.step)

    def close(self, evaluate: float, save: float) -> None:
        """What follows the last step: the whole validation split takes two evaluations, the export one save."""
        self.time += 2 * evaluate + save + 0.5  # and the process needs a moment to end


def changing(first: float, then: float) -> Callable[[float, float], Callable[[float], float]]:
    """Steps of `first` units, and of `then` units from the middle of the budget on."""
    return lambda budget, unit: lambda now: unit * (first if now < budget / 2 else then)


def stalling(at: float, part: float) -> Callable[[float, float], Callable[[float], float]]:
    """One step, `at` that part of the budget, takes a `part` of it."""

    def machine(budget: float, unit: float) -> Callable[[float], float]:
        stalls = iter([part * budget])
        return lambda now: next(stalls, unit) if now > at * budget else unit

    return machine


def jittery(budget: float, unit: float) -> Callable[[float], float]:
    count = itertools.count()
    return lambda now: 5 * unit if next(count) % 10 == 0 else unit


MACHINES = {
    "steady": changing(1, 1),
    "three times slower from the middle on": changing(1, 3),
    "three times faster from the middle on": changing(3, 1),
    "slower and slower": lambda budget, unit: lambda now: unit * (1 + 2 * now / budget),
    "stalling once for a tenth of the time": stalling(at=0.4, part=0.1),
    "stalling near the end": stalling(at=0.85, part=0.03),
    "with a first step that compiles": stalling(at=-1, part=0.15),
    "with every tenth step five times as long": jittery,
}


@pytest.mark.parametrize("budget", [60.0, 3600.0])
@pytest.mark.parametrize("guess", [0.25, 1.0, 4.0], ids=["planned too short", "planned well", "planned too long"])
@pytest.mark.parametrize("steps", [150, 2000], ids=["long steps", "short steps"])
@pytest.mark.parametrize("name", MACHINES)
def test_a_run_ends_on_the_deadline_with_its_schedule_at_the_end(
    name: str, steps: int, guess: float, budget: float
) -> None:
    machine = Machine(budget, MACHINES[name](budget, budget / steps), planned=int(guess * steps))
    machine.run(evaluate=0.003 * budget, save=0.002 * budget)
    machine.close(evaluate=0.003 * budget, save=0.002 * budget)
    assert 0.97 * budget <= machine.time <= budget + max(machine.last_steps)
    assert machine.time <= 1.03 * budget
    length = machine.length
    assert length.scale.position(machine.step) >= 0.97 * length.scale.length
    assert machine.evaluations - length.scale.length // length.intervals["evaluate"] in (0, 1)
    assert len(length.scale.breakpoints) < 120


def test_a_run_that_begins_after_its_deadline_is_over() -> None:
    machine = Machine(60.0, lambda now: 0.02, 1000)
    machine.time = 61.0
    machine.run(0.1, 0.1)
    assert machine.step == 0


def test_a_run_that_goes_on_from_its_knots_ends_in_time_too() -> None:
    first = Machine(100.0, changing(1, 3)(100.0, 0.02), 5000)
    first.run(0.3, 0.2, until=40.0)
    points, second = first.length.scale.breakpoints, Machine(100.0, changing(1, 3)(100.0, 0.02), 5000)
    second.length.resume(points)
    second.step, second.time = first.step, first.time + 5.0
    second.run(0.3, 0.2)
    second.close(0.3, 0.2)
    assert 97.0 <= second.time <= 100.0
    assert second.length.scale.breakpoints[: len(points) - 1] == points[:-1]
    assert second.length.scale.position(second.step) >= 0.97 * 5000


def test_without_a_clock_the_end_is_fixed_and_every_step_stands_at_itself() -> None:
    length = RunLength(((0, 1237),), last_step=1237)
    for step in range(1237):
        assert not length.is_over(step) and length.scale.position(step) == step
        with length.timing("evaluate"):
            length.lap(step)
        assert length.is_due(step, 7) == (step > 0 and step % 7 == 0) and not length.is_due(step, 0)
    assert length.is_over(1237) and length.scale.breakpoints == ((0, 1237),)


BREAKPOINTS: Breakpoints = ((0, 1000), (100, 700), (300, 900), (800, 820))


def test_places_rise_from_nothing_to_the_whole_without_a_leap() -> None:
    positions = [ProgressScale(BREAKPOINTS).position(step) for step in range(821)]
    rises = [after - before for before, after in itertools.pairwise(positions)]
    assert positions[0] == 0 and positions[-1] == pytest.approx(1000, rel=1e-12)
    assert all(rise > 0 for rise in rises)
    assert ProgressScale(BREAKPOINTS).position(100) == 100  # the first plan was one position a step
    assert ProgressScale(BREAKPOINTS).position(300) == pytest.approx(100 + 900 * 200 / 600)  # then 900 in 600 steps


def test_a_length_that_follows_another_passes_the_same_positions() -> None:
    leader = RunLength(BREAKPOINTS[:1])
    follower = RunLength(BREAKPOINTS[:1])
    for start, end in BREAKPOINTS:
        leader.follow(start, end)
        follower.follow(*leader.scale.breakpoints[-1])
        follower.follow(*leader.scale.breakpoints[-1])
    assert follower.scale.breakpoints == BREAKPOINTS and follower.end == BREAKPOINTS[-1][1]


def test_what_is_planned_later_changes_no_earlier_place() -> None:
    for count in range(1, len(BREAKPOINTS)):
        until = BREAKPOINTS[count][0]
        for step in range(until + 1):
            assert ProgressScale(BREAKPOINTS[:count]).position(step) == ProgressScale(BREAKPOINTS).position(step)


def test_events_that_were_planned_for_a_short_run_leave_a_longer_one_its_steps() -> None:
    """What fits is what the definition says: no event more than once a step, and at least one step."""
    length = TimeBudget(((0, 20),), Clock(100.0, 0.0, lambda: 0.0))
    length.step_seconds = 0.1
    for seconds, events in ((30.0, [(435, 0.03), (435, 0.06)]), (30.0, [(10, 0.5)]), (0.01, [(9, 9.0)])):
        steps = length.steps_within(seconds, events)

        def cost(n: int, events: list[tuple[int, float]] = events) -> float:
            return 0.1 * n + sum(min(n, count) * each for count, each in events)

        assert steps == max([1, *(n for n in range(1, 1000) if cost(n) <= seconds)])
