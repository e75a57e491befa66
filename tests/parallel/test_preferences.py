"""Ranks that share the pairs of a step make the step of one process."""

from __future__ import annotations

import pytest
import torch

from parallel.preference_steps import steps_alone, steps_of_rank
from ranks import run_ranks


@pytest.mark.slow
def test_two_ranks_with_different_numbers_of_pairs_make_the_steps_of_one_process() -> None:
    results, weights = steps_alone()
    for found, own in run_ranks(2, steps_of_rank, 2):
        for one, other in zip(results, found, strict=True):
            assert other.loss == pytest.approx(one.loss, rel=1e-5) and other.tokens == one.tokens
            assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)
            assert other.figures == pytest.approx(one.figures, rel=1e-4, abs=1e-6)
        torch.testing.assert_close(torch.tensor(own), torch.tensor(weights), rtol=1e-4, atol=1e-5)
    assert results[-1].loss < results[0].loss and len(results[0].figures) == 5
