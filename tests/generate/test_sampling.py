"""The filters against transformers' logits processors; the draws against the softmax probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gptcli.generate import sampling

SHAPES = [(1, 7), (3, 65), (4, 1000), (2, 1)]


def logit_batches() -> list[Tensor]:
    """Random logits, small and large, rounded so that many tie, all equal, and with removed tokens."""
    generator = torch.Generator().manual_seed(11)
    batches = []
    for shape in SHAPES:
        logits = torch.randn(shape, generator=generator)
        batches += [logits, logits * 8, logits.round(), torch.zeros(shape), (logits * 3).round() / 2]
        batches.append(logits.masked_fill(logits < logits.mean(-1, keepdim=True), -torch.inf))
    return batches


def processed(processor, logits: Tensor, input_ids: Tensor | None = None) -> Tensor:
    ids = torch.zeros((logits.size(0), 1), dtype=torch.long) if input_ids is None else input_ids
    return processor(ids, logits.clone())


@pytest.mark.parametrize("k", [1, 2, 5, 50, 5000])
def test_top_k_equals_transformers(k: int) -> None:
    from transformers.generation.logits_process import TopKLogitsWarper

    for logits in logit_batches():
        assert torch.equal(sampling.top_k(logits, k), processed(TopKLogitsWarper(k), logits))


@pytest.mark.parametrize("p", [1e-6, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_top_p_equals_transformers(p: float) -> None:
    from transformers.generation.logits_process import TopPLogitsWarper

    for logits in logit_batches():
        assert torch.equal(sampling.top_p(logits, 1 - p), processed(TopPLogitsWarper(p), logits))


@pytest.mark.parametrize("p", [0.0, 0.05, 0.3, 0.9, 1.0])
def test_min_p_equals_transformers(p: float) -> None:
    from transformers.generation.logits_process import MinPLogitsWarper

    for logits in logit_batches():
        assert torch.equal(sampling.min_p(logits, p), processed(MinPLogitsWarper(p), logits))


@pytest.mark.parametrize("penalty", [0.5, 1.3, 4.0])
def test_repetition_penalty_equals_transformers(penalty: float) -> None:
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    generator = torch.Generator().manual_seed(5)
    for logits in logit_batches():
        input_ids = torch.randint(logits.size(1), (logits.size(0), 12), generator=generator)
        seen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, input_ids, True)
        expected = processed(RepetitionPenaltyLogitsProcessor(penalty), logits, input_ids)
        assert torch.equal(sampling.repetition_penalty(logits, seen, penalty), expected)


def test_filters_leave_their_argument_alone() -> None:
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    sampling.top_k(logits, 2)
    sampling.top_p(logits, 0.5)
    sampling.min_p(logits, 0.5)
    sampling.repetition_penalty(logits, torch.ones_like(logits, dtype=torch.bool), 2.0)
    assert torch.equal(logits, before)


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


def test_samples_follow_the_softmax_probabilities() -> None:
    n = 200_000
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -torch.inf, -2.0, 0.3])
    draws = sampling.uniform_draws([0] * n, range(n))
    counts = np.bincount(sampling.sample(logits.expand(n, -1), draws).numpy(), minlength=8)
    assert counts[5] == 0, "a token of probability zero was drawn"
    possible = [0, 1, 2, 3, 4, 6, 7]
    expected = n * logits.double().softmax(-1).numpy()
    # 6 degrees of freedom: a right sampler exceeds 33.1 once in 100,000 streams.
    assert chi_square(counts[possible], expected[possible]) < 33.1


@pytest.mark.parametrize("by", ["position", "seed"])
def test_draws_are_uniform_along_a_stream_and_across_adjacent_seeds(by: str) -> None:
    n, cells = 200_000, 20
    seeds, positions = ([3] * n, range(n)) if by == "position" else (range(n), [0] * n)
    draws = sampling.uniform_draws(seeds, positions).numpy()
    assert draws.min() >= 0 and draws.max() < 1
    counts = np.histogram(draws, bins=cells, range=(0, 1))[0]
    assert chi_square(counts, np.full(cells, n / cells)) < 59.1  # 19 degrees of freedom, 5e-6
    # Adjacent pairs fill the unit square evenly: the first number does not predict the second.
    pairs = np.histogram2d(draws[:-1], draws[1:], bins=cells, range=[[0, 1], [0, 1]])[0]
    assert chi_square(pairs, np.full((cells, cells), (n - 1) / cells**2)) < 530  # 399 degrees of freedom, about 1e-5


def test_draws_are_those_of_splitmix64() -> None:
    """The published generator's first three outputs from state 0."""
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    draws = sampling.uniform_draws([0, 0, 0], [0, 1, 2]).tolist()
    assert draws == [(value >> 11) / 2**53 for value in expected]


def test_a_draw_does_not_depend_on_the_rows_beside_it() -> None:
    together = sampling.uniform_draws([7, 2**63, 9], [0, 5, 2])
    assert together[1:2].equal(sampling.uniform_draws([2**63], [5]))


def test_extreme_draws_stay_within_the_distribution() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(500, 300, generator=generator).masked_fill(
        torch.rand(500, 300, generator=generator) < 0.9, -torch.inf
    )
    logits[:, 7] = 0.0
    for draw in (0.0, 1 - 2.0**-53):
        ids = sampling.sample(logits, torch.full((500,), draw, dtype=torch.float64))
        assert torch.isfinite(logits.gather(1, ids[:, None])).all()


def test_log_probabilities_are_those_of_log_softmax() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 30
    ids = torch.tensor([0, 49, 7, 7])
    expected = logits.log_softmax(-1)[torch.arange(4), ids]
    torch.testing.assert_close(sampling.log_probabilities(logits, ids), expected, rtol=1e-13, atol=1e-13)


def test_greedy_takes_the_largest() -> None:
    logits = torch.tensor([[0.0, 3.0, -1.0], [5.0, 3.0, 4.0]])
    assert sampling.greedy(logits).tolist() == [1, 0]
