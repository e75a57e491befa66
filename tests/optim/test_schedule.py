"""Schedules against closed-form values."""

from __future__ import annotations

import math

import pytest
import torch

from gptcli.errors import ConfigError
from gptcli.optim.config import ConstantSchedule, CosineSchedule, LinearSchedule, WsdSchedule
from gptcli.optim.schedule import lr_factor, set_lr

DECAYING = [LinearSchedule, CosineSchedule, WsdSchedule]


def nanogpt_lr(it: int, *, learning_rate: float, warmup_iters: int, lr_decay_iters: int, min_lr: float) -> float:
    """The rule as nanoGPT states it: linear warm-up, cosine to min_lr at lr_decay_iters, min_lr after."""
    if it < warmup_iters:
        return learning_rate * (it + 1) / (warmup_iters + 1)
    if it > lr_decay_iters:
        return min_lr
    coefficient = 0.5 * (1.0 + math.cos(math.pi * (it - warmup_iters) / (lr_decay_iters - warmup_iters)))
    return min_lr + coefficient * (learning_rate - min_lr)


@pytest.mark.parametrize("min_lr", [0.0, 1e-4])
def test_cosine_is_nanogpts(min_lr: float) -> None:
    config = CosineSchedule(warmup_steps=100, min_lr=min_lr)
    for step in [0, 1, 50, 99, 100, 101, 1000, 1999, 2000, 2001, 5000]:
        expected = nanogpt_lr(step, learning_rate=1e-3, warmup_iters=100, lr_decay_iters=2000, min_lr=min_lr)
        assert lr_factor(config, step, 2000, 1e-3) * 1e-3 == pytest.approx(expected, rel=1e-12, abs=1e-18)


@pytest.mark.parametrize("kind", [ConstantSchedule, *DECAYING])
def test_warm_up_rises_in_equal_steps_to_the_full_rate(kind: type) -> None:
    factors = [lr_factor(kind(warmup_steps=4), step, 100, 1.0) for step in range(5)]
    assert factors == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, 1])


@pytest.mark.parametrize("kind", [ConstantSchedule, *DECAYING])
def test_without_warm_up_the_first_step_has_the_full_rate(kind: type) -> None:
    assert lr_factor(kind(warmup_steps=0), 0, 100, 1.0) == 1


def test_constant_stays_at_the_full_rate_for_ever() -> None:
    assert {lr_factor(ConstantSchedule(warmup_steps=2), step, 10, 1.0) for step in range(2, 30)} == {1.0}


def test_linear_is_a_straight_line_to_min_lr() -> None:
    config = LinearSchedule(warmup_steps=10, min_lr=0.02)
    for step, expected in [(10, 0.2), (60, 0.11), (109, 0.02 + 0.18 / 100), (110, 0.02)]:
        assert 0.2 * lr_factor(config, step, 110, 0.2) == pytest.approx(expected, rel=1e-12)


def test_wsd_is_stable_then_falls_over_the_last_part() -> None:
    config = WsdSchedule(warmup_steps=10, min_lr=0.1, decay_fraction=0.2)
    assert {lr_factor(config, step, 100, 1.0) for step in range(10, 81)} == {1.0}
    for step, expected in [(81, 1 - 0.9 / 20), (90, 0.55), (99, 0.1 + 0.9 / 20), (100, 0.1)]:
        assert lr_factor(config, step, 100, 1.0) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", DECAYING)
@pytest.mark.parametrize(("warmup", "max_steps"), [(0, 50), (7, 50), (49, 50), (50, 50), (80, 50), (0, 1)])
def test_the_rate_rises_then_falls_and_ends_at_min_lr(kind: type, warmup: int, max_steps: int) -> None:
    config = kind(warmup_steps=warmup, min_lr=1e-4)
    factors = [lr_factor(config, step, max_steps, 1e-3) for step in range(max(warmup, max_steps) + 5)]
    rise, fall = factors[:warmup], factors[warmup:]
    assert rise == sorted(rise)
    assert fall == sorted(fall, reverse=True)
    assert fall[-1] == pytest.approx(0.1)
    assert all(0 < factor <= 1 for factor in factors)


@pytest.mark.parametrize("kind", DECAYING)
def test_between_two_steps_the_rate_lies_between_theirs(kind: type) -> None:
    config = kind(warmup_steps=6, min_lr=1e-4)
    for step in range(50):
        here, there = (lr_factor(config, place, 50, 1e-3) for place in (step, step + 1))
        inside = [lr_factor(config, step + part, 50, 1e-3) for part in (0.0, 0.25, 0.5, 0.75)]
        assert inside[0] == here
        assert inside == sorted(inside, reverse=there < here)
        assert min(here, there) <= min(inside) and max(inside) <= max(here, there) + 1e-12


def test_min_lr_above_the_learning_rate_is_refused() -> None:
    with pytest.raises(ConfigError, match="min_lr"):
        lr_factor(CosineSchedule(min_lr=1e-2), 0, 100, 1e-3)


def test_every_group_keeps_its_own_rate_in_proportion() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [w], "lr": lr, "initial_lr": lr} for w, lr in zip(weights, (0.1, 0.4), strict=True)]
    optimizer = torch.optim.SGD(groups)
    set_lr(optimizer, 0.5)
    set_lr(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.025, 0.1]
