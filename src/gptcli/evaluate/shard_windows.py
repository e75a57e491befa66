"""The windows in which the validation loss of a training reads a split: the same ones at every call.

Shapes: B batch, T time (seq_len).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from gptcli.data.batch import Batch
from gptcli.data.batches import mask_begin_tokens
from gptcli.data.config import Pack
from gptcli.data.examples.sequences import ExampleSequences
from gptcli.data.shards import TokenShards
from gptcli.nn.loss import IGNORE_INDEX


class StreamWindows:
    """Windows of `seq_len` targets of a stream; `len()` is their number."""

    def __init__(self, shards: TokenShards, seq_len: int, max_tokens: int | None, pack: Pack) -> None:
        self.shards, self.seq_len, self.pack = shards, seq_len, pack
        self.starts = window_starts(len(shards), seq_len, max_tokens)
        self.positions = min(len(self.starts) * seq_len, len(shards) - 1)
        """The targets of all windows."""
        self.is_whole = max_tokens is None or len(shards) - 1 <= max_tokens
        """Whether the windows hold the whole split."""

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Return the windows of these numbers."""
        return window_batch(self.shards, [self.starts[number] for number in numbers], self.seq_len, self.pack)


class ExampleWindows:
    """Rows of whole examples, all or some of them, spread evenly; `len()` is their number."""

    def __init__(self, shards: TokenShards, seq_len: int, max_tokens: int | None) -> None:
        self.sequences = packed(shards, seq_len)
        rows = len(self.sequences.rows)
        count = rows if max_tokens is None or len(shards) <= max_tokens else min(rows, max(1, max_tokens // seq_len))
        self.numbers = [index * rows // count for index in range(count)]
        self.positions = count * seq_len
        """The places of all rows, of which the padding and what is not learnt are no targets."""
        self.is_whole = count == rows
        """Whether the rows hold the whole split."""

    def __len__(self) -> int:
        return len(self.numbers)

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Return the rows of these numbers."""
        return self.sequences.batch([self.numbers[number] for number in numbers])


ShardWindows = StreamWindows | ExampleWindows


def windows_of(shards: TokenShards, seq_len: int, max_tokens: int | None, pack: Pack) -> ShardWindows:
    """Return windows of all of a split, or about `max_tokens` of them, spread evenly."""
    if pack == "example":
        return ExampleWindows(shards, seq_len, max_tokens)
    return StreamWindows(shards, seq_len, max_tokens, pack)


@lru_cache(maxsize=64)
def packed(shards: TokenShards, seq_len: int) -> ExampleSequences:
    """Return the rows of a split, which are packed once."""
    return ExampleSequences(shards, seq_len, seed=0)


def window_starts(length: int, seq_len: int, max_tokens: int | None) -> list[int]:
    """Return the starts of the windows in a stream of `length` tokens.

    The whole stream is cut into windows of seq_len targets, the last one possibly shorter; when that is more than
    max_tokens, so many whole windows as fit (at least one), the i-th of k at the i/k-th part of the stream.
    """
    targets = length - 1
    if max_tokens is None or targets <= max_tokens:
        return list(range(0, targets, seq_len))
    whole = targets // seq_len
    count = min(whole, max(1, max_tokens // seq_len))
    return [index * whole // count * seq_len for index in range(count)] or [0]


def window_batch(shards: TokenShards, starts: list[int], seq_len: int, pack: Pack) -> Batch:
    """Return the windows that begin at `starts`; one that the stream's end cuts short is padded, the padding ignored.

    T is always seq_len, and all batches but the last have the same B: a compiled model is compiled at most twice.
    """
    input_ids = np.zeros((len(starts), seq_len), dtype=np.int64)
    targets = np.full((len(starts), seq_len), IGNORE_INDEX, dtype=np.int64)
    for row, start in enumerate(starts):
        ids = shards.read(start, min(start + seq_len + 1, len(shards)))
        input_ids[row, : len(ids) - 1] = ids[:-1]
        targets[row, : len(ids) - 1] = ids[1:]
    mask_begin_tokens(targets, shards.framing)
    segment_ids = None
    if pack == "document":
        positions = np.asarray(starts)[:, None] + np.arange(seq_len + 1)
        numbers = np.searchsorted(shards.document_starts, positions.astype(np.uint64), side="right")  # (B, T + 1)
        segment_ids = torch.from_numpy(numbers[:, :-1].copy())
        if shards.framing.begin_id is None:  # As in training: nothing foretells the next document's text.
            targets[numbers[:, 1:] != numbers[:, :-1]] = IGNORE_INDEX
    return Batch(torch.from_numpy(input_ids), torch.from_numpy(targets), segment_ids)
