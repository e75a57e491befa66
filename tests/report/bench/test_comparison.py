"""The order of the rounds and the statistics, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from gptcli.report.bench.comparison import Spread, alternate, ratios, spread


def test_contenders_run_in_turn_and_not_one_after_the_other() -> None:
    order: list[str] = []
    contenders = {name: lambda name=name: order.append(name) or len(order) for name in "AB"}
    measured = alternate(contenders, rounds=3)
    assert "".join(order) == "ABABAB"
    assert measured == {"A": [1, 3, 5], "B": [2, 4, 6]}


def test_every_round_is_reported_once_when_all_have_run() -> None:
    reported: list[tuple[int, int]] = []
    runs: list[str] = []
    contenders = {name: lambda name=name: runs.append(name) or True for name in "ABC"}
    alternate(contenders, 2, lambda number: reported.append((number, len(runs))))
    assert reported == [(1, 3), (2, 6)]


def test_a_contender_that_fails_is_not_in_the_result_and_runs_no_more() -> None:
    answers = {"A": iter([1, 2, 3]), "B": iter([1, None])}
    measured = alternate({name: lambda name=name: next(answers[name]) for name in answers}, rounds=3)
    assert measured == {"A": [1, 2, 3]}


def test_a_spread_is_the_median_with_the_extremes() -> None:
    assert spread([5.0, 1.0, 9.0]) == Spread(5.0, 1.0, 9.0)
    assert spread([4.0, 2.0]).median == 3.0


def test_ratios_are_taken_within_each_round() -> None:
    """The machine is half as fast in the second round: every ratio is 2, where that of the medians is not."""
    ours, theirs = [20.0, 10.0, 21.0], [10.0, 5.0, 10.5]
    assert ratios(ours, theirs) == Spread(2.0, 2.0, 2.0)
    assert ratios([6.0, 1.0, 4.0], [2.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)


def test_ratios_need_the_same_rounds_of_both() -> None:
    with pytest.raises(ValueError):
        ratios([1.0, 2.0], [1.0])


def test_figures_for_json_keep_six_digits() -> None:
    assert spread([1 / 3]).report() == {"median": 0.333333, "low": 0.333333, "high": 0.333333}
