"""Crossing times and clocks against numbers worked out by hand."""

from __future__ import annotations

import pytest

from bench.curves import Point, Run, crossing

CURVE = [(10.0, 3.0), (20.0, 2.0), (30.0, 2.5), (40.0, 1.5)]
RUN = Run(
    seed=1,
    points=(Point(10, 5.0, 3.0), Point(20, 6.0, 2.0), Point(30, 7.0, 2.2)),
    startup_seconds=2.0,
    first_step_seconds=4.1,
    median_step_seconds=0.1,
    wall_seconds=20.0,
)


@pytest.mark.parametrize(
    ("target", "seconds"),
    [
        (2.5, 15.0),  # half-way down the first stretch
        (2.0, 20.0),  # exactly at a point
        (1.75, 37.5),  # the bump in between does not count
        (3.0, 10.0),
        (3.5, 10.0),  # begins below: the first point
        (1.4, None),
    ],
)
def test_a_target_is_crossed_on_the_line_between_two_points(target: float, seconds: float | None) -> None:
    assert crossing(CURVE, target) == (None if seconds is None else pytest.approx(seconds))


def test_an_empty_curve_crosses_nothing() -> None:
    assert crossing([], 1.0) is None


def test_the_clock_of_steps_counts_the_first_as_the_median_one() -> None:
    """Ten steps took 5 s, the first of them 4.1 s: without its 4 s too much they took 1 s."""
    assert RUN.curve == [(pytest.approx(1.0), 3.0), (pytest.approx(2.0), 2.0), (pytest.approx(3.0), 2.2)]


def test_the_cold_clock_counts_all_from_the_command_on() -> None:
    assert RUN.cold_curve == [(7.0, 3.0), (8.0, 2.0), (9.0, 2.2)]


def test_the_lowest_loss_need_not_be_the_last() -> None:
    assert RUN.lowest == Point(20, 6.0, 2.0)
