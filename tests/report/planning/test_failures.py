"""The rhythm of checkpoints, against the minimum of what Daly's whole formula says and against simulated failures."""

from __future__ import annotations

import random

import pytest

from gptcli.report.planning.failures import RESTART_SECONDS, plan_saving, stretch


@pytest.mark.parametrize("write", [1.0, 30.0, 300.0])
@pytest.mark.parametrize("devices", [8, 1024, 16384])
def test_no_other_interval_loses_noticeably_less(write: float, devices: int) -> None:
    saving = plan_saving(write * 1e9, 1e9, 50_000, devices)
    assert saving.failure_every_seconds == 50_000 * 3600 / devices
    others = (stretch(saving.interval * 1.02**i, write, saving.failure_every_seconds) for i in range(-100, 101))
    assert 1 / (1 - saving.lost) <= min(others) * 1.001


def test_the_time_lost_is_that_of_a_simulated_training() -> None:
    write, failure, interval = 60.0, 7200.0, 900.0
    chance, wall, done = random.Random(0), 0.0, 0
    until = chance.expovariate(1 / failure)
    while done < 20_000:
        need = interval + write
        if until >= need:
            wall, until, done = wall + need, until - need, done + 1
            continue
        wall, until = wall + until, chance.expovariate(1 / failure)
        while until < RESTART_SECONDS:  # fails again while it starts anew
            wall, until = wall + until, chance.expovariate(1 / failure)
        wall, until = wall + RESTART_SECONDS, until - RESTART_SECONDS
    assert wall / (done * interval) == pytest.approx(stretch(interval, write, failure), rel=0.01)


def test_young_is_near_where_writing_is_short_and_failures_are_rare() -> None:
    saving = plan_saving(1e9, 1e9, 50_000, 1)
    assert saving.interval == pytest.approx((2 * 1.0 * 50_000 * 3600) ** 0.5, rel=0.01)


def test_a_training_that_fails_faster_than_it_saves_never_ends() -> None:
    assert plan_saving(1e15, 1e9, 1.0, 10_000).lost == 1
