"""Sequences of whole examples, for training and for the validation loss.

Each sequence is a row of one or several examples and, at its end, padding. No token sees another example, and none is
predicted across a boundary. The last token of an example is only a target, so that one of N tokens takes N - 1 places.
Shapes: B batch, T time (seq_len).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from gptcli.data.batch import Batch
from gptcli.data.examples.packing import pack
from gptcli.data.permutation import derive, permute
from gptcli.data.shards import TokenShards
from gptcli.errors import DataError
from gptcli.nn.loss import IGNORE_INDEX


class PlacedDocument(NamedTuple):
    """Document `number`, tokens first..last-1 of the stream, in a row from `start` on."""

    number: int
    first: int
    last: int
    start: int


class ExampleSequences:
    """Rows of examples by their number 0, 1, 2, ... over all epochs; each epoch has another order of the same rows.

    The documents of a unit of the shards, such as the two answers of a preference, are in one row.
    """

    def __init__(self, shards: TokenShards, seq_len: int, seed: int) -> None:
        """
        Raises:
            DataError: The split holds no example, or one that is longer than a sequence.
        """
        self.shards, self.seq_len, self.seed = shards, seq_len, seed
        self.edges = np.append(shards.document_starts.astype(np.int64), len(shards))  # (documents + 1,)
        places = (np.diff(self.edges) - 1).reshape(-1, shards.unit_documents).sum(axis=1)  # (units,)
        if not len(places):
            raise DataError("the training split holds no example", "give more examples")
        if places.max() > seq_len:
            raise DataError(
                f"an example has {places.max() + 1:,} tokens, more than a sequence of {seq_len:,} and its last target",
                "raise train.seq_len",
            )
        self.rows = pack(places, seq_len)
        self.sequences_per_epoch = len(self.rows)
        """The number of rows, which hold every example once."""
        self.filled = float(places.sum()) / (seq_len * len(self.rows))
        """The part of all places that is not padding."""

    def sequences(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """Return the sequences of these numbers, in this order; they depend on nothing else."""
        indices = np.asarray(indices, dtype=np.uint64)
        count = np.uint64(len(self.rows))
        keys = derive(derive(np.full(len(indices), self.seed, dtype=np.uint64), 0), indices // count)
        return self.batch(permute(indices % count, len(self.rows), keys))

    def batch(self, rows: Sequence[int] | np.ndarray) -> Batch:
        """Return these rows, numbered in the order in which they were packed.

        `targets` is the next token of the example if it is in the loss, else IGNORE_INDEX. `segment_ids` counts the
        examples of a row from 0; the padding has the number after the last one.
        """
        shape, reference = (len(rows), self.seq_len), self.shards.reference
        input_ids, targets = np.zeros(shape, dtype=np.int64), np.full(shape, IGNORE_INDEX, dtype=np.int64)
        segment_ids, nats = np.empty(shape, dtype=np.int64), np.zeros(shape, dtype=np.float32)
        for place, row in enumerate(rows):
            for segment, document in enumerate(self.documents(int(row))):
                ids = self.shards.read(document.first, document.last).astype(np.int64)
                in_loss = self.shards.read_mask(document.first, document.last)
                within = slice(document.start, document.start + len(ids) - 1)
                input_ids[place, within] = ids[:-1]
                targets[place, within] = np.where(in_loss[1:], ids[1:], IGNORE_INDEX)
                segment_ids[place, within] = segment
                if reference is not None:
                    nats[place, within] = reference[document.first + 1 : document.last]
            segment_ids[place, within.stop :] = segment + 1
        batch = Batch(*map(torch.from_numpy, (input_ids, targets, segment_ids)))
        return batch if reference is None else batch._replace(reference=torch.from_numpy(nats))

    def put_back(self, rows: Sequence[int] | np.ndarray, values: np.ndarray, stream: np.ndarray) -> None:
        """Write the values of the targets of these rows, (B, T), to their tokens' places in `stream`, (tokens,)."""
        for place, row in enumerate(rows):
            for _, first, last, start in self.documents(int(row)):
                stream[first + 1 : last] = values[place, start : start + last - first - 1]

    def documents(self, row: int) -> Iterator[PlacedDocument]:
        """Yield the documents of a row in their order."""
        units, start = self.rows.row(row), 0
        for number in (units[:, None] * self.shards.unit_documents + np.arange(self.shards.unit_documents)).ravel():
            first, last = int(self.edges[number]), int(self.edges[number + 1])
            yield PlacedDocument(int(number), first, last, start)
            start += last - first - 1
