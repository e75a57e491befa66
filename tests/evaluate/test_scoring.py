"""Losses of tokens against one full forward for each token, in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from gptcli.errors import OutOfMemoryError
from gptcli.evaluate.scoring import BATCHES_AHEAD, Scorer, default_batch_size, evaluation_mode, usable_batch_size
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.nn.device import machine_memory_bytes

CONFIG = ModelConfig(vocab_size=31, context_length=16, n_layer=2, n_head=2, n_embd=16, init_std=0.5)


@pytest.fixture(scope="module")
def model() -> GPT:
    return build_model(CONFIG, dtype=torch.float64).eval()


def random_sequences(lengths: list[int]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(CONFIG.vocab_size, size=length, dtype=np.uint32) for length in lengths]


def scored(model: GPT, sequences: list[np.ndarray], context: int, stride: int, batch_size: int) -> list[np.ndarray]:
    scorer = Scorer(model, context=context, stride=stride, batch_size=batch_size)
    with evaluation_mode(model):
        return [sequence.losses for sequence in scorer.score(enumerate(sequences))]


def first_visible(position: int, context: int, stride: int) -> int:
    """The first position that the token at `position` may see: where the first window that reaches it begins."""
    if position < context:
        return 0
    window = math.ceil((position - context + 1) / stride)
    return min(window * stride, context + (window - 1) * stride - 1)


@pytest.mark.parametrize(("context", "stride"), [(16, 8), (16, 16), (16, 1), (7, 3), (2, 1), (1, 1)])
def test_losses_are_those_of_one_full_forward_for_each_token(model: GPT, context: int, stride: int) -> None:
    sequences = random_sequences([1, 2, 5, 16, 17, 40, 0, 33])
    found = scored(model, sequences, context, stride, batch_size=3)
    for ids, losses in zip(sequences, found, strict=True):
        assert len(losses) == max(0, len(ids) - 1)
        for position in range(1, len(ids)):
            seen = ids[first_visible(position, context, stride) : position].astype(np.int64)
            with torch.no_grad():
                expected = -model(torch.from_numpy(seen)[None])[0, -1].log_softmax(-1)[int(ids[position])]
            assert losses[position - 1] == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batch_size_changes_no_loss(model: GPT, batch_size: int) -> None:
    sequences = random_sequences([3, 50, 1, 20, 16, 90])
    for found, expected in zip(
        scored(model, sequences, 16, 4, batch_size), scored(model, sequences, 16, 4, 7), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_sequences_come_back_in_order_with_their_keys_and_ids(model: GPT) -> None:
    sequences = random_sequences([40, 2, 0, 90, 1, 17] * 5)
    scorer = Scorer(model, context=16, stride=8, batch_size=2)
    with evaluation_mode(model):
        found = list(scorer.score(enumerate(sequences)))
    assert [sequence.key for sequence in found] == list(range(30))
    assert all((sequence.ids == ids).all() for sequence, ids in zip(found, sequences, strict=True))


def test_no_more_sequences_are_held_than_the_batches_gathered_need(model: GPT) -> None:
    taken = 0

    def endless() -> Iterator[tuple[int, np.ndarray]]:
        nonlocal taken
        while taken < 500:
            yield taken, np.array([1, 2, 3], dtype=np.uint32)
            taken += 1

    with evaluation_mode(model):
        for returned, _ in enumerate(Scorer(model, context=16, stride=8, batch_size=4).score(endless())):
            assert taken - returned <= 4 * BATCHES_AHEAD
    assert taken == 500


def test_tokens_reported_while_scoring_add_up(model: GPT) -> None:
    reported: list[tuple[int, float]] = []
    scorer = Scorer(model, context=8, stride=4, batch_size=3, on_tokens=lambda *report: reported.append(report))
    sequences = random_sequences([30, 9, 2])
    with evaluation_mode(model):
        found = list(scorer.score(enumerate(sequences)))
    assert sum(count for count, _ in reported) == 29 + 8 + 1
    assert sum(nats for _, nats in reported) == pytest.approx(sum(s.losses.sum() for s in found))


def test_evaluation_mode_turns_dropout_off_and_puts_training_back() -> None:
    dropping = build_model(CONFIG.model_copy(update={"dropout": 0.5})).train()
    plain = build_model(CONFIG)
    sequences = random_sequences([20])
    state = torch.get_rng_state()
    np.testing.assert_array_equal(scored(dropping, sequences, 16, 8, 4)[0], scored(plain, sequences, 16, 8, 4)[0])
    assert dropping.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_can_be_trained_after_it_was_evaluated() -> None:
    model = build_model(CONFIG).double()  # the cast makes the model compute its table of positions anew
    scored(model, random_sequences([20]), 16, 8, 4)
    model.loss_sum(torch.ones(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.long)).backward()
    assert model.embedding.weight.grad is not None


class SmallMemory(torch.nn.Module):
    """A model on a device that holds only `rows` windows at a time."""

    def __init__(self, model: GPT, rows: int) -> None:
        super().__init__()
        self.model, self.rows, self.config = model, rows, model.config
        self.batches: list[int] = []

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(input_ids))
        if len(input_ids) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.model(input_ids)


def test_out_of_memory_halves_the_batch_once_and_changes_no_loss(
    model: GPT, capsys: pytest.CaptureFixture[str]
) -> None:
    small = SmallMemory(model, rows=3)
    sequences = random_sequences([100, 60])
    for found, expected in zip(scored(small, sequences, 16, 8, 9), scored(model, sequences, 16, 8, 9), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)
    assert small.batches[:3] == [9, 5, 3]
    assert max(small.batches[2:]) == 3, "the smaller batch is kept"
    assert "continuing with batches of 3" in capsys.readouterr().err


def test_a_window_that_does_not_fit_is_one_line_with_a_remedy(model: GPT) -> None:
    with pytest.raises(OutOfMemoryError, match="--context"):
        scored(SmallMemory(model, rows=0), random_sequences([20]), 16, 8, 1)


@pytest.mark.parametrize(("context", "vocab_size"), [(64, 65), (256, 4096), (1024, 50257), (2048, 150000)])
def test_default_batches_bound_the_logits_on_a_cpu(context: int, vocab_size: int) -> None:
    batch_size = default_batch_size(context, vocab_size, torch.device("cpu"))
    assert batch_size == 1 or 4 * batch_size * context * vocab_size <= 2**28
    assert batch_size * context <= 2**13


def test_a_batch_that_is_asked_for_is_taken_as_far_as_half_of_the_memory_goes() -> None:
    cpu = torch.device("cpu")
    assert usable_batch_size(None, 128, 1000, cpu) == default_batch_size(128, 1000, cpu)
    assert usable_batch_size(24, 128, 1000, cpu) == 24
    most = usable_batch_size(2**60, 8192, 50_000, cpu)
    assert 3 * 4 * 8192 * 50_000 * most <= machine_memory_bytes(cpu) // 2
    assert usable_batch_size(2**60, 2**60, 50_000, cpu) == 1
    assert usable_batch_size(2**60, 8192, 50_000, torch.device("cuda")) == 2**60  # which says when it has no more
