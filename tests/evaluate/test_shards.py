"""The loss that a training loop sees: fixed windows, every target once, nothing of the training disturbed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptcli.data.shards import ShardWriter, TokenShards
from gptcli.errors import DataError
from gptcli.evaluate.shard_windows import window_starts
from gptcli.evaluate.shards import ShardLoss, ShardScorer
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.nn.loss import IGNORE_INDEX, token_losses
from gptcli.objective.objective import CROSS_ENTROPY
from gptcli.parallel.layout import Layout
from gptcli.parallel.strategy import Alone
from gptcli.tokenizer.framing import DocumentFraming

CONFIG = ModelConfig(vocab_size=31, context_length=16, n_layer=1, n_head=2, n_embd=16, init_std=0.5, dropout=0.5)
CPU = torch.device("cpu")


Shards = Callable[..., TokenShards]


@pytest.fixture
def shards_of(tmp_path: Path) -> Shards:
    """A split of documents that take `lengths` tokens each, their end-of-text token included where there is one."""

    def write(*lengths: int, eos_id: int | None = 0) -> TokenShards:
        generator = np.random.default_rng(0)
        with ShardWriter(tmp_path, CONFIG.vocab_size, DocumentFraming(eos_id), "tokenizer", shard_bytes=100) as writer:
            for length in lengths:
                ids = generator.integers(1, CONFIG.vocab_size, size=length - (eos_id is not None))
                writer.add(ids, size=3 * length, starts=True)
        return TokenShards.open(tmp_path)

    return write


@pytest.fixture
def model() -> GPT:
    return build_model(CONFIG, dtype=torch.float64).train()


def direct(model: GPT, shards: TokenShards, starts: list[int]) -> list[float]:
    """-log p of every target of the windows of 16 tokens that begin at `starts`."""
    nats = []
    model.eval()
    for start in starts:
        window = torch.from_numpy(shards.read(start, min(start + 17, len(shards))).astype(np.int64))
        logprobs = model(window[None, :-1])[0].detach().log_softmax(-1)
        nats += [-logprobs[row, target].item() for row, target in enumerate(window[1:])]
    model.train()
    return nats


def measure(model: GPT, shards: TokenShards, max_tokens: int | None = None, **options: Any) -> ShardLoss:
    settings = {"strategy": Alone(model), "seq_len": 16, "batch_size": 4, "device": CPU, "precision": "fp32"}
    return ShardScorer(**(settings | options)).measure(model, shards, max_tokens)


@pytest.mark.parametrize("length", [2, 9, 17, 18, 100, 129])
@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_whole_split_scores_every_token_but_the_first_once(
    model: GPT, shards_of: Shards, length: int, batch_size: int
) -> None:
    shards = shards_of(length)
    found = measure(model, shards, batch_size=batch_size)
    expected = direct(model, shards, list(range(0, length - 1, 16)))
    assert found.tokens == len(expected) == length - 1
    assert found.loss == pytest.approx(sum(expected) / len(expected), abs=1e-12)
    assert found.bits_per_byte == pytest.approx(sum(expected) / math.log(2) / (3 * length), rel=1e-12)


class Dealt:
    """The strategy of a rank that writes down what it would add to a sum over the ranks."""

    def __init__(self, rank: int, ranks: int) -> None:
        self.layout = Layout(rank, replicas=ranks)
        self.objective = CROSS_ENTROPY
        self.asked = 0

    def sum_over_data(self, numbers: list[float]) -> list[float]:
        self.own = numbers
        return numbers

    def never(self) -> bool:
        self.asked += 1
        return False


@pytest.mark.parametrize("ranks", [2, 3, 9])
@pytest.mark.parametrize("length", [9, 100, 129])
def test_ranks_score_every_token_once_in_as_many_batches_each(
    model: GPT, shards_of: Shards, length: int, ranks: int
) -> None:
    shards = shards_of(length)
    whole = measure(model, shards, batch_size=2)
    strategies = [Dealt(rank, ranks) for rank in range(ranks)]
    for strategy in strategies:
        with contextlib.suppress(ZeroDivisionError):  # a rank that has nothing to score: here nobody adds up
            ShardScorer(strategy, 16, 2, CPU, "fp32").measure(model, shards, None, strategy.never)
    *sums, counted = np.sum([strategy.own for strategy in strategies], axis=0)
    tokens, nats = np.reshape(sums, (2, -1))
    assert tokens.sum() == counted == whole.tokens
    assert nats.sum() / tokens.sum() == pytest.approx(whole.loss, abs=1e-12)
    assert nats / tokens == pytest.approx(np.array(whole.parts), abs=1e-12)
    assert len({strategy.asked for strategy in strategies}) == 1


def test_part_of_a_split_scores_windows_spread_evenly(model: GPT, shards_of: Shards) -> None:
    shards = shards_of(400, 600)
    found = measure(model, shards, max_tokens=100)
    expected = direct(model, shards, window_starts(1000, 16, 100))
    assert found.tokens == len(expected) == 96
    assert found.loss == pytest.approx(sum(expected) / 96, abs=1e-12)
    assert found.bits_per_byte is None


@pytest.mark.parametrize("length", [2, 9, 33, 34, 100, 700])
@pytest.mark.parametrize("max_tokens", [None, 64])
def test_parts_are_consecutive_and_as_large_as_each_other(
    model: GPT, shards_of: Shards, length: int, max_tokens: int | None
) -> None:
    shards = shards_of(length)
    found = measure(model, shards, max_tokens=max_tokens)
    expected = np.array(direct(model, shards, window_starts(length, 16, max_tokens)))
    assert len(found.parts) == min(32, len(expected))
    edges = [-(-number * len(expected) // len(found.parts)) for number in range(len(found.parts) + 1)]
    means = [expected[first:last].mean() for first, last in pairwise(edges)]
    assert np.array(found.parts) == pytest.approx(np.array(means), abs=1e-12)


def test_packed_documents_are_scored_without_what_stands_before_them(model: GPT, shards_of: Shards) -> None:
    """With windows as long as each document and its end-of-text token, every document is scored as if alone."""
    shards = shards_of(5, 11, 16, 9, 7)
    model.eval()
    nats = 0.0
    for number in range(shards.documents):
        ids = [0, *shards.document(number).tolist()]
        ending = [0] if number + 1 < shards.documents else []
        logits = model(torch.tensor([ids])).detach()
        nats += token_losses(logits, torch.tensor([[*ids[1:], *(ending or [IGNORE_INDEX])]])).sum().item()
    found = measure(model, shards, pack="document")
    assert found.tokens == len(shards) - 1
    assert found.loss * found.tokens == pytest.approx(nats, rel=1e-8)  # positions are fp32 and shifted
    assert found.loss != measure(model, shards, pack="cross").loss


def test_packed_documents_without_end_of_text_do_not_foretell_each_other(model: GPT, shards_of: Shards) -> None:
    shards = shards_of(5, 11, 16, eos_id=None)
    found = measure(model, shards, pack="document")
    model.eval()
    nats = 0.0
    for number in range(shards.documents):
        ids = torch.from_numpy(shards.document(number).astype(np.int64))[None]
        nats += token_losses(model(ids[:, :-1]).detach(), ids[:, 1:]).sum().item()
    assert found.tokens == 4 + 10 + 15
    assert found.loss * found.tokens == pytest.approx(nats, rel=1e-8)  # positions are fp32 and shifted


@pytest.mark.parametrize("length", [2, 16, 17, 18, 100, 1000])
@pytest.mark.parametrize("max_tokens", [1, 16, 40, 99, 500, 10_000, None])
def test_windows_are_whole_apart_and_from_one_end_to_the_other(length: int, max_tokens: int | None) -> None:
    starts = window_starts(length, 16, max_tokens)
    assert starts[0] == 0
    assert all(later - earlier >= 16 and later % 16 == 0 for earlier, later in pairwise(starts))
    if max_tokens is None or max_tokens >= length - 1:
        assert len(starts) == math.ceil((length - 1) / 16)
        return
    assert len(starts) == 1 or len(starts) * 16 <= max_tokens
    assert starts[-1] + 16 < length or len(starts) == 1
    gaps = np.diff([*starts, (length - 1) // 16 * 16])
    assert gaps.max() - gaps.min() <= 16 or len(starts) == 1


def test_evaluating_disturbs_neither_mode_nor_randomness_nor_weights(model: GPT, shards_of: Shards) -> None:
    torch.manual_seed(5)
    state, weights = torch.get_rng_state(), model.embedding.weight.clone()
    shards = shards_of(200)
    assert len({measure(model, shards, max_tokens=64) for _ in range(3)}) == 1
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model.embedding.weight, weights)
    assert model.embedding.weight.grad is None


def test_autocast_comes_close_to_fp32(shards_of: Shards) -> None:
    model, shards = build_model(CONFIG), shards_of(300)
    exact, rough = (measure(model, shards, precision=precision) for precision in ("fp32", "bf16"))
    assert rough.loss != exact.loss
    assert rough.loss == pytest.approx(exact.loss, rel=0.02)


def test_a_split_of_one_token_is_bad_data(model: GPT, shards_of: Shards) -> None:
    with pytest.raises(DataError, match="fewer than two"):
        measure(model, shards_of(1))


def test_the_loss_of_examples_is_that_of_each_alone_over_its_mask(tmp_path: Path, model: GPT) -> None:
    generator = np.random.default_rng(0)
    examples = [generator.integers(1, CONFIG.vocab_size, size=length) for length in generator.integers(3, 18, 40)]
    masks = [np.append(generator.random(len(ids) - 1) < 0.4, True) for ids in examples]
    none = DocumentFraming(None)
    with ShardWriter(tmp_path / "examples", CONFIG.vocab_size, none, "tokenizer", masked=True) as writer:
        for ids, mask in zip(examples, masks, strict=True):
            writer.add_examples(ids, mask, np.array([len(ids)]), np.array([5]))
    shards = TokenShards.open(tmp_path / "examples")
    nats = []
    model.eval()
    for ids, mask in zip(examples, masks, strict=True):
        logprobs = model(torch.from_numpy(ids[None, :-1]))[0].detach().log_softmax(-1)
        nats += [-logprobs[place, ids[place + 1]].item() for place in range(len(ids) - 1) if mask[place + 1]]
    model.train()
    whole = measure(model, shards, pack="example")
    assert whole.loss == pytest.approx(np.mean(nats), rel=1e-5) and whole.tokens == len(nats) == shards.targets
    assert whole.is_whole and whole.bits_per_byte is None and len(whole.parts) > 1
    assert measure(model, shards, len(shards), pack="example") == whole
    part = measure(model, shards, 64, pack="example")
    assert not part.is_whole and 0 < part.tokens < whole.tokens
