"""The law says what everyone knows: more of what helps predicts a lower loss, and repetition helps less and less."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gptcli.train.planning.scaling_law import Runs, ScalingLaw, excess_bits, saturating, shipped_law, useful_bytes

RUN = Runs(
    weights=4e5, layers=4, width=128, vocabulary=1024, context=128, tokens_per_step=1024, bytes_per_token=2.4,
    unique_bytes=1e6, bytes_seen=5e6,
)  # fmt: skip


def bits(**changes: float) -> float:
    return float(excess_bits(shipped_law(), RUN._replace(**changes)))


def test_every_constant_of_the_shipped_law_is_a_positive_number() -> None:
    assert all(math.isfinite(value) and value > 0 for value in shipped_law())


@pytest.mark.parametrize("name", ["weights", "bytes_seen", "context", "unique_bytes"])
def test_more_of_it_predicts_a_lower_loss(name: str) -> None:
    losses = [bits(**{name: factor * getattr(RUN, name)}) for factor in (0.25, 0.5, 1, 2, 4)]
    assert losses == sorted(losses, reverse=True)


def test_larger_steps_over_the_same_text_predict_a_higher_loss() -> None:
    losses = [bits(tokens_per_step=tokens) for tokens in (256, 1024, 4096, 65536)]
    assert losses == sorted(losses)


def test_a_hundred_epochs_teach_hardly_more_than_fifty_and_the_first_ones_most() -> None:
    law = shipped_law()
    seen = [1e6 * epochs for epochs in (1, 2, 50, 100)]
    one, two, fifty, hundred = (float(useful_bytes(law, RUN._replace(bytes_seen=count))) for count in seen)
    assert two - one > 10 * (hundred - fifty) / 50


def test_the_formula_is_the_one_that_the_docstring_gives() -> None:
    law = ScalingLaw(a=8, alpha=0.5, b=9, beta=0.25, v=2, gamma=0.5, h=3, eta=0.5, k=4, kappa=0.5, w=0.1, rho=16, s=2,
                     q=0.5, repeats=5, spare=7)  # fmt: skip
    run = Runs(weights=100.0, layers=2, width=64, vocabulary=256, context=64, tokens_per_step=100, bytes_per_token=2.0,
               unique_bytes=1e4, bytes_seen=2e4)  # fmt: skip
    text = (1e4 + 1e4 * 5 * (1 - math.exp(-1 / 5))) / (1 + 100 / (2 * math.sqrt(1e4)))
    suitable = (0.5 * 8 / (0.25 * 9) * 1e4**0.25) ** 2
    weights = suitable + suitable * 7 * (1 - math.exp(-(100 / suitable - 1) / 7)) if suitable < 100 else 100
    expected = (
        8 / math.sqrt(weights) + 9 / text**0.25 + 2 / math.sqrt(256 * 64) + 3 * math.sqrt(256 / (text / 2))
        + 4 / math.sqrt(128) + 0.1 * math.log(64 / 32) ** 2
    )  # fmt: skip
    assert float(excess_bits(law, run)) == pytest.approx(expected, rel=1e-12)


def test_saturation_starts_where_there_is_enough_without_a_kink_and_ends_at_its_bound() -> None:
    assert saturating(3.0, 10.0, 4.0) == 3.0
    assert saturating(10.0, 10.0, 4.0) == 10.0
    assert saturating(10.0 + 1e-6, 10.0, 4.0) - 10.0 == pytest.approx(1e-6, rel=1e-4)
    assert saturating(1e9, 10.0, 4.0) == pytest.approx(50.0)


def test_arrays_give_what_single_runs_give() -> None:
    runs = Runs(*(np.array([value, 2 * value], dtype=float) for value in RUN))
    singles = [float(excess_bits(shipped_law(), Runs(*(column[i] for column in runs)))) for i in range(2)]
    assert excess_bits(shipped_law(), runs).tolist() == pytest.approx(singles, rel=1e-12)
