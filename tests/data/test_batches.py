"""Batches are a pure function of (seed, index), and an epoch shows every token once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gptcli.data.batch import Batch
from gptcli.data.batches import Batches
from gptcli.data.shards import TokenShards
from gptcli.data.token_mix import TokenMix
from gptcli.errors import DataError

EOS = 9_999


def batches_of(shards: TokenShards, seq_len: int, seed: int, pack: str = "cross") -> Batches:
    """Return the batches of a single corpus."""
    return Batches(TokenMix.of_one(shards), seq_len, seed, pack)


def positions(write_shards, length: int, name: str = "split"):
    """Return a split whose token at position i is i."""
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
    """Documents of 1 to 40 tokens, of which no two are equal."""
    lengths = np.random.default_rng(0).integers(1, 40, size=60)
    return [list(range(end - length, end)) for length, end in zip(lengths, np.cumsum(lengths), strict=True)]


def positions_of(batch: Batch, stream: list[int]) -> np.ndarray:
    """The positions in the ring of the inputs and of the last target of each row, (B, T + 1), by a token of a text."""
    starts = []
    for ids in batch.input_ids.tolist():
        place = next(place for place, token in enumerate(ids) if token < EOS)
        starts.append(stream.index(ids[place]) - place)
    return (np.array(starts)[:, None] + np.arange(batch.input_ids.shape[1] + 1)) % len(stream)


@pytest.mark.parametrize("pack", ["cross", "document"])
@pytest.mark.parametrize(
    ("before", "after"), [([EOS], []), ([EOS], [EOS + 1]), ([], [])], ids=["one token before", "begin and end", "none"]
)
def test_rows_are_windows_of_the_ring_whose_segments_are_documents(
    write_shards, documents, before: list[int], after: list[int], pack: str
) -> None:
    """A token that begins a document is no target after one that ends another; nor, with segments, is any token that
    crosses a boundary without a token between."""
    shards = write_shards(
        documents, vocab_size=EOS + 2, eos_id=EOS if before else None, end_id=EOS + 1 if after else None
    )
    batch = batches_of(shards, 32, seed=0, pack=pack).sequences(range(100))
    framed = [[*before, *document, *after] for document in documents]
    stream = [token for document in framed for token in document]
    owners = np.repeat(np.arange(len(framed)), [len(document) for document in framed])
    positions = positions_of(batch, stream)
    tokens, crosses = np.array(stream)[positions], np.diff(owners[positions]) != 0  # (B, T + 1), (B, T)
    masked = (tokens[:, 1:] == EOS) if after else crosses & (pack == "document" and not before)
    assert np.array_equal(batch.input_ids.numpy(), tokens[:, :-1])
    assert np.array_equal(batch.targets.numpy(), np.where(masked, -100, tokens[:, 1:]))
    assert crosses.any() and masked.any() == bool(after or (pack == "document" and not before))
    if pack == "cross":
        assert batch.segment_ids is None
    else:
        assert np.array_equal(np.diff(batch.segment_ids.numpy()), crosses[:, :-1].astype(int))
