"""Turns by weight: fair over every stretch, and computed from their number alone."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gptcli.data.proportions import LONGEST_PERIOD, Proportions

WEIGHTS = [[1.0], [0.7, 0.2, 0.1], [3.0, 1.0], [0.5, 0.25, 0.125, 0.125], [1.0] * 7, [0.97, 0.01, 0.01, 0.01]]


@pytest.mark.parametrize(
    "weights", WEIGHTS + [[random.Random(k).randrange(1, 60) / 4 for _ in range(k)] for k in (5, 9)]
)
def test_after_any_number_of_turns_each_has_had_its_share_within_one(weights: list[float]) -> None:
    proportions = Proportions(weights)
    owners, places = proportions.turns(np.arange(3 * proportions.period, dtype=np.uint64))
    had = np.cumsum(owners[:, None] == np.arange(len(weights)), axis=0)  # (turns, K)
    share = np.arange(1, len(owners) + 1)[:, None] * np.array(weights) / sum(weights)
    bound = 1 - 1 / max(1, 2 * len(weights) - 2) if len(weights) > 1 else 0
    assert np.abs(had - share).max() <= bound + 1e-9
    for owner in range(len(weights)):
        assert np.array_equal(places[owners == owner], np.arange(had[-1, owner])), "no place is left out or taken twice"
    for number in (0, 1, 2 * proportions.period + 1, 3 * proportions.period):
        assert proportions.before(number) == ([0] * len(weights) if number == 0 else had[number - 1].tolist())


def test_a_turn_far_off_is_known_without_those_before_it() -> None:
    proportions = Proportions([0.6, 0.3, 0.1])
    far = np.array([10**15, 10**15 + 1, 7], dtype=np.uint64)
    owners, places = proportions.turns(far)
    assert owners.tolist()[:2] == proportions.owners[:2].tolist() and places[0] == 10**15 * (6, 3, 1)[owners[0]] // 10


def test_weights_that_need_too_long_a_period_are_rounded_and_none_is_lost() -> None:
    proportions = Proportions([1.0, 1e-9, 0.333333333])
    assert min(proportions.counts) == 1 and proportions.period <= LONGEST_PERIOD + 3
    assert proportions.counts[2] / proportions.counts[0] == pytest.approx(1 / 3, abs=2e-4)
