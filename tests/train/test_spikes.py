"""Losses that jump are told from losses that wander."""

from __future__ import annotations

import math

import pytest
import torch

from gptcli.train.spikes import LEAST, WINDOW, SpikeGuard

CPU = torch.device("cpu")
GOOD = torch.tensor(False)


def guard_of(losses: list[float], limit: float = 6.0) -> SpikeGuard:
    guard = SpikeGuard(limit, CPU)
    for loss in losses:
        guard.add(torch.tensor(loss), GOOD)
    return guard


def wandering(count: int) -> list[float]:
    noise = torch.randn(count, generator=torch.Generator().manual_seed(0))
    return (3.0 + 0.1 * noise).tolist()


def test_the_score_is_the_distance_from_the_median_in_median_deviations() -> None:
    losses = wandering(WINDOW)
    known = torch.tensor(losses)
    median = known.median()
    deviation = 1.4826 * (known - median).abs().median()
    guard = guard_of(losses, limit=6.0)
    assert not guard.is_spike(median + 5.99 * deviation)
    assert guard.is_spike(median + 6.01 * deviation)
    assert not guard.is_spike(median - 100 * deviation)


def test_nothing_is_a_spike_before_enough_is_known() -> None:
    assert not guard_of(wandering(LEAST - 1)).is_spike(torch.tensor(1e9))
    assert guard_of(wandering(LEAST)).is_spike(torch.tensor(1e9))


def test_a_bad_loss_does_not_change_what_is_usual() -> None:
    guard = guard_of(wandering(WINDOW))
    before = guard.state()
    guard.add(torch.tensor(math.nan), torch.tensor(True))
    guard.add(torch.tensor(50.0), torch.tensor(True))
    assert guard.state() == before


def test_only_the_last_losses_count() -> None:
    guard = guard_of([100.0] * WINDOW + wandering(WINDOW))
    assert guard.is_spike(torch.tensor(50.0))


@pytest.mark.parametrize("count", [10, WINDOW + 5])
def test_what_is_known_comes_back(count: int) -> None:
    guard = guard_of(wandering(count))
    other = SpikeGuard(6.0, CPU)
    other.restore(guard.state())
    assert torch.equal(other.losses.nan_to_num(-1), guard.losses.nan_to_num(-1))
