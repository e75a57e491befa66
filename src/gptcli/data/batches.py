"""Batches as a pure function of (seed, index of a sequence), so that no state is saved and any number of readers agree.

The stream of tokens is a ring: after its last document comes the first. Each epoch cuts it into windows of seq_len, at
a phase of its own, and orders them in its own way; both are computed from seed and epoch.
Shapes: B batch, T time (seq_len).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Literal, assert_never

import numpy as np
import torch

from gptcli.data.batch import Batch
from gptcli.data.config import Pack
from gptcli.data.examples.sequences import ExampleSequences
from gptcli.data.permutation import derive, permute
from gptcli.data.proportions import Proportions
from gptcli.data.shards import TokenShards
from gptcli.data.token_mix import TokenMix
from gptcli.errors import DataError
from gptcli.nn.loss import IGNORE_INDEX
from gptcli.tokenizer.framing import DocumentFraming

PHASE = 1 << 32
"""The number of the key for the phase of an epoch; those for its order are small."""


class ShardSequences:
    """Sequences of `seq_len` tokens of a split, by their number 0, 1, 2, ... over all epochs.

    pack="document" numbers the documents in each sequence. The token before a document belongs to it, so that the
    document's first token is predicted from it. If that token also separates documents, its own prediction, from the
    document before, means the end of that text; after a token that ends the document before, it is no target. Without
    any such token the target across a boundary cannot be predicted and is IGNORE_INDEX.
    """

    def __init__(self, shards: TokenShards, seq_len: int, seed: int, pack: Literal["cross", "document"]) -> None:
        self.shards, self.seq_len, self.seed, self.pack = shards, seq_len, seed, pack
        self.sequences_per_epoch = len(shards) // seq_len
        """The number of windows of an epoch, which hold every token once, except for the remainder of the division."""

    def sequences(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """Return the sequences of these numbers, in this order; they depend on nothing else."""
        starts = self.window_starts(np.asarray(indices, dtype=np.uint64))
        tokens = np.stack([self.read_window(int(start)) for start in starts])  # (B, T + 1)
        targets = tokens[:, 1:].copy()
        mask_begin_tokens(targets, self.shards.framing)
        segment_ids = None
        if self.pack == "document":
            positions = (starts[:, None] + np.arange(self.seq_len + 1)) % len(self.shards)  # (B, T + 1)
            begins = self.begins_document(positions)
            segment_ids = torch.from_numpy(np.cumsum(begins[:, :-1], axis=1))
            if self.shards.framing.begin_id is None:
                targets[begins[:, 1:]] = IGNORE_INDEX
        return Batch(torch.from_numpy(tokens[:, :-1].copy()), torch.from_numpy(targets), segment_ids)

    def window_starts(self, indices: np.ndarray) -> np.ndarray:
        """indices (B,) uint64 -> (B,) int64: the start of each of these sequences in the ring."""
        count = np.uint64(self.sequences_per_epoch)
        keys = derive(derive(np.full(len(indices), self.seed, dtype=np.uint64), 0), indices // count)
        windows = permute(indices % count, self.sequences_per_epoch, keys)
        phases = derive(keys, PHASE) % np.uint64(self.seq_len)
        return ((windows * np.uint64(self.seq_len) + phases) % np.uint64(len(self.shards))).astype(np.int64)

    def read_window(self, start: int) -> np.ndarray:
        """Return (T + 1,) int64: the tokens from `start` on, which wrap around at the end of the stream."""
        stop = start + self.seq_len + 1
        length = len(self.shards)
        tokens = self.shards.read(start, min(stop, length))
        if stop > length:
            tokens = np.concatenate((tokens, self.shards.read(0, stop - length)))
        return tokens.astype(np.int64)

    def begins_document(self, positions: np.ndarray) -> np.ndarray:
        """positions (B, T + 1) of the ring -> the same shape, bool: True if a document starts there."""
        starts = self.shards.document_starts
        place = np.searchsorted(starts, positions.astype(np.uint64))
        return np.asarray(starts[np.minimum(place, len(starts) - 1)] == positions)


class Batches:
    """Sequences of the corpora of a run in the proportions of their weights, by their number 0, 1, 2, ...

    The corpus of a number, and the sequence of that corpus, follow from the number alone; each corpus has epochs of its
    own.
    """

    def __init__(self, mix: TokenMix, seq_len: int, seed: int, pack: Pack = "cross") -> None:
        """
        Raises:
            DataError: A corpus holds less than one sequence and its last target; the message names it.
        """
        self.names, self.seq_len, self.proportions = mix.names, seq_len, Proportions(mix.weights)
        self.parts = [
            sequences_of(name, shards, seq_len, own_seed, pack)
            for name, shards, own_seed in zip(mix.names, mix.parts, seeds_of(mix, seed), strict=True)
        ]
        self.sequences_per_epoch = sum(part.sequences_per_epoch for part in self.parts)
        """The number of windows of all corpora; each corpus has epochs of its own (`epochs`)."""

    def sequences(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """Return the sequences of these numbers, in this order; they depend on nothing else."""
        owners, places = self.proportions.turns(np.asarray(indices, dtype=np.uint64))
        rows = [np.flatnonzero(owners == owner) for owner in range(len(self.parts))]
        made = [part.sequences(places[some]) for part, some in zip(self.parts, rows, strict=True) if len(some)]
        if len(made) == 1:
            return made[0]
        order = torch.from_numpy(np.argsort(np.concatenate(rows)))
        return Batch.joined(made).each(operator.itemgetter(order))

    def epochs(self, count: int) -> dict[str, float]:
        """Return the number of epochs of each corpus in the first `count` sequences."""
        turns = zip(self.names, self.proportions.before(count), self.parts, strict=True)
        return {name: number / part.sequences_per_epoch for name, number, part in turns}


def sequences_of(
    name: str, shards: TokenShards, seq_len: int, seed: int, pack: Pack
) -> ShardSequences | ExampleSequences:
    """Return the sequences of one corpus.

    Raises:
        DataError: It holds less than one sequence and its last target.
    """
    match pack:
        case "example":
            return ExampleSequences(shards, seq_len, seed)
        case "cross" | "document":
            require_sequence(name, len(shards), seq_len)
            return ShardSequences(shards, seq_len, seed, pack)
        case other:
            assert_never(other)


def seeds_of(mix: TokenMix, seed: int) -> list[int]:
    """Return a seed for each corpus of a mix; a single corpus has the run's own."""
    if mix.is_single:
        return [seed]
    return [int(derive(np.full(1, seed, dtype=np.uint64), number)[0]) >> 1 for number in range(len(mix.parts))]


def require_sequence(name: str, tokens: int, seq_len: int) -> None:
    """Raise a DataError if the training split of a corpus is shorter than one sequence and its last target."""
    if tokens < seq_len + 1:
        shorter = f", or a context of at most {tokens - 1}" if tokens > 1 else ""
        raise DataError(
            f"{name and f'of the mix, {name}: '}the training split holds {tokens:,} tokens, less than one sequence of "
            f"{seq_len:,} (the context length) and its last target",
            f"use a longer corpus{shorter}",
        )


def mask_begin_tokens(targets: np.ndarray, framing: DocumentFraming) -> None:
    """Set targets (B, T) that begin a document to IGNORE_INDEX, in place, if a token before them ends the one before.

    There is nothing to predict there, and a loss of zero would make the mean smaller than that of the text.
    """
    if framing.end_id is not None:
        targets[targets == framing.begin_id] = IGNORE_INDEX
