"""Batches are a pure function of (seed, index), and an epoch shows every token once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gptcli.data.batches import Batches
from gptcli.data.shards import TokenShards
from gptcli.data.token_mix import TokenMix
from gptcli.errors import DataError

EOS = 9_999


def batches_of(shards: TokenShards, seq_len: int, seed: int, pack: str = "cross") -> Batches:
    """The batches of a single corpus."""
    return Batches(TokenMix.of_one(shards), seq_len, seed, pack)


def positions(write_shards, length: int, name: str = "split"):
    """A split whose token at position i is i."""
    return write_shards([list(range(length))], vocab_size=10_000, eos_id=None, shard_bytes=1000, name=name)


@pytest.mark.parametrize("length", [9, 10, 16, 17, 63, 64, 65, 1000, 1009])
def test_an_epoch_shows_every_token_once_but_for_the_remainder(write_shards, length: int) -> None:
    batches = batches_of(positions(write_shards, length), 8, seed=3)
    count = batches.sequences_per_epoch
    assert count == length // 8
    for epoch in (0, 1, 7, 10**6):
        batch = batches.sequences(range(epoch * count, (epoch + 1) * count))
        seen = np.sort(batch.input_ids.numpy().ravel())
        assert len(seen) == 8 * count and len(np.unique(seen)) == len(seen)
        assert np.array_equal(batch.targets.numpy(), (batch.input_ids.numpy() + 1) % length)
        assert batch.segment_ids is None
        assert batch.input_ids.dtype == batch.targets.dtype == torch.int64


def test_sequences_do_not_depend_on_how_they_are_grouped(write_shards) -> None:
    batches = batches_of(positions(write_shards, 1000), 16, seed=1)
    whole = batches.sequences(range(200))
    parts = [batches.sequences(range(start, start + 25)) for start in range(0, 200, 25)]
    single = [batches.sequences([index]) for index in range(200)]
    fresh = batches_of(positions(write_shards, 1000, "again"), 16, seed=1).sequences(list(range(199, -1, -1)))
    for name in ("input_ids", "targets"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
        assert torch.equal(torch.cat([getattr(part, name) for part in single]), getattr(whole, name))
        assert torch.equal(getattr(fresh, name).flip(0), getattr(whole, name))


def test_epochs_and_seeds_differ_in_order_and_in_phase(write_shards) -> None:
    shards = positions(write_shards, 9000)
    starts = []
    for seed in range(4):
        batches = batches_of(shards, 32, seed)
        count = batches.sequences_per_epoch
        for epoch in range(4):
            starts.append(batches.sequences(range(epoch * count, (epoch + 1) * count)).input_ids[:, 0].numpy())
    for number, some in enumerate(starts):
        assert np.abs(np.corrcoef(some, np.arange(len(some)))[0, 1]) < 0.3  # standard deviation 0.06
        for other in starts[:number]:
            assert (some == other).mean() < 0.1
    assert len({int(some.min()) % 32 for some in starts}) > 8


def test_the_first_positions_of_all_epochs_cover_every_phase(write_shards) -> None:
    batches = batches_of(positions(write_shards, 640), 16, seed=0)
    starts = batches.sequences(range(40 * 400)).input_ids[:, 0].numpy()
    counts = np.bincount(starts % 16, minlength=16)
    assert counts.min() > 0.4 * counts.mean()


def test_a_corpus_shorter_than_a_sequence_is_an_error_with_the_remedy(write_shards) -> None:
    shards = positions(write_shards, 64)
    assert batches_of(shards, 63, seed=0).sequences([0]).input_ids.shape == (1, 63)
    with pytest.raises(DataError, match=r"holds 64 tokens, less than one sequence of 64 .*context of at most 63"):
        batches_of(shards, 64, seed=0)


@pytest.fixture
def documents() -> list[list[int]]:
    """Documents of 1 to 40 tokens, each holding its own number only."""
    lengths = np.random.default_rng(0).integers(1, 40, size=60)
    return [[number] * int(length) for number, length in enumerate(lengths)]


def test_segments_are_the_documents_and_each_begins_with_its_end_of_text_token(write_shards, documents) -> None:
    shards = write_shards(documents, vocab_size=10_000, eos_id=EOS)
    batch = batches_of(shards, 32, seed=0, pack="document").sequences(range(100))
    for inputs, targets, segments in zip(*(tensor.tolist() for tensor in batch), strict=True):
        segment = 0
        for place, token in enumerate(inputs):
            if token == EOS:
                segment += place > 0 or segments[0] > 0
            assert segments[place] - segments[0] == segment - (segments[0] > 0) * (inputs[0] == EOS)
        assert targets[:-1] == inputs[1:]
        for place in range(31):
            if segments[place] == segments[place + 1]:
                assert inputs[place + 1] != EOS
            else:
                assert inputs[place + 1] == EOS


@pytest.mark.parametrize("pack", ["cross", "document"])
def test_a_token_that_follows_the_end_of_a_document_is_no_target(write_shards, documents, pack: str) -> None:
    shards = write_shards(documents, vocab_size=10_001, eos_id=EOS, end_id=EOS + 1)
    inputs, targets, segments = batches_of(shards, 32, seed=0, pack=pack).sequences(range(100))
    assert torch.equal((inputs == EOS + 1)[:, :-1], (inputs == EOS)[:, 1:])
    assert torch.equal(targets == -100, inputs == EOS + 1)
    if segments is not None:  # a document holds the token before it and the token after it
        assert torch.equal(segments.diff(dim=1) == 1, (inputs == EOS)[:, 1:])


def test_without_an_end_of_text_token_targets_across_boundaries_are_left_out(write_shards, documents) -> None:
    shards = write_shards(documents, vocab_size=10_000, eos_id=None)
    batch = batches_of(shards, 32, seed=0, pack="document").sequences(range(100))
    inputs, targets, segments = batch
    assert torch.equal(segments.diff(dim=1) == 1, inputs.diff(dim=1) != 0)
    assert torch.equal(targets == -100, torch.cat((inputs.diff(dim=1) != 0, (targets == -100)[:, -1:]), dim=1))
    assert ((targets == inputs) | (targets == -100)).all()
    crossed = batches_of(shards, 32, seed=0).sequences(range(100))
    assert torch.equal(crossed.input_ids, inputs) and (crossed.targets >= 0).all()
