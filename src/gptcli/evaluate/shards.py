"""The validation loss of a training loop: quick, the same tokens at every call, no randomness used or disturbed.

It reads the token stream as training does, documents end to end, in windows that do not overlap; the careful
measurement, each document by itself and with overlapping windows, is in perplexity.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gptcli.data.batches import Batch, mask_begin_tokens
from gptcli.data.shards import TokenShards
from gptcli.errors import DataError
from gptcli.evaluate.scoring import evaluation_mode
from gptcli.models.gpt import GPT
from gptcli.nn.device import Precision, autocast
from gptcli.nn.loss import IGNORE_INDEX
from gptcli.parallel.strategy import Strategy

MOST_PARTS = 32
"""Parts for which the loss is reported separately, enough for a standard error that is itself known to an eighth."""


class Interrupted(Exception):
    """A measurement that was stopped on request."""


class ShardLoss(NamedTuple):
    """The mean loss in nats over `tokens` target tokens; bits per byte of text only where the whole split was read.

    parts: the mean losses of up to MOST_PARTS consecutive parts of what was read, of about equal numbers of tokens.
        Every call with the same arguments has the same parts, whatever the model.
    """

    loss: float
    tokens: int
    bits_per_byte: float | None
    parts: tuple[float, ...] = ()


@dataclass(frozen=True)
class ShardScorer:
    """Measures the loss of a model on token shards, which are cut into the same windows every time."""

    strategy: Strategy
    seq_len: int
    batch_size: int
    device: torch.device
    precision: Precision
    pack: Literal["cross", "document"] = "cross"
    """The reach of attention, as `data.pack`: with `document` no token sees the document before its own."""

    def measure(
        self, model: GPT, shards: TokenShards, max_tokens: int | None, should_stop: Callable[[], bool] = bool
    ) -> ShardLoss:
        """Return the loss on all of `shards`, or on about `max_tokens` of them in windows spread evenly.

        The targets of all of `shards` are the tokens of the stream but the first, each exactly once, including those
        that end documents; `mask_begin_tokens` leaves some out, as in training. The ranks of the strategy share the
        batches; all call this and get the same result. The model's mode is restored.

        Args:
            should_stop: is called before each batch.

        Raises:
            Interrupted: `should_stop()` was true.
            DataError: the split holds fewer than two tokens.
        """
        if len(shards) < 2:
            raise DataError("the validation split holds fewer than two tokens", "give it more text (data.val_fraction)")
        starts = window_starts(len(shards), self.seq_len, max_tokens)
        sums = PartSums(min(len(starts) * self.seq_len, len(shards) - 1))
        layout = self.strategy.layout
        with evaluation_mode(model):
            for number, batch in enumerate(self.batches(shards, starts)):
                if should_stop():
                    raise Interrupted
                input_ids, targets, segment_ids = batch.to(self.device)
                with autocast(self.device, self.precision):
                    losses = model.token_losses(input_ids, targets, segment_ids)
                sums.add((number * layout.data_ranks + layout.data_rank) * self.batch_size, losses, batch.targets)
        summed = self.strategy.sum_over_data(sums.numbers.ravel().tolist())
        sums.numbers = np.array(summed).reshape(2, -1)
        nats, tokens = sums.numbers.sum(axis=1).tolist()
        is_whole = max_tokens is None or len(shards) - 1 <= max_tokens
        bits_per_byte = nats / shards.bytes / math.log(2) if is_whole and shards.bytes else None
        return ShardLoss(nats / tokens, round(tokens), bits_per_byte, sums.means())

    def batches(self, shards: TokenShards, starts: list[int]) -> Iterator[Batch]:
        """Yield this data rank's batches of the windows that begin at `starts`.

        Each rank has as many, since the ranks may compute together: one that has no batch left in the last round gets
        one whose targets are all ignored.
        """
        layout = self.strategy.layout
        groups = [starts[first : first + self.batch_size] for first in range(0, len(starts), self.batch_size)]
        for first in range(0, len(groups), layout.data_ranks):
            number = first + layout.data_rank
            batch = window_batch(shards, groups[min(number, len(groups) - 1)], self.seq_len, self.pack)
            is_left = number < len(groups)
            yield batch if is_left else batch._replace(targets=torch.full_like(batch.targets, IGNORE_INDEX))


class PartSums:
    """Sums of nats and of tokens in each of up to MOST_PARTS consecutive parts of `positions` targets."""

    def __init__(self, positions: int) -> None:
        self.positions, self.count = positions, min(positions, MOST_PARTS)
        self.numbers = np.zeros((2, self.count))

    def add(self, window: int, losses: Tensor, targets: Tensor) -> None:
        """Add losses and targets (B, T) of consecutive windows, the first of which is number `window`."""
        first, counted = window * targets.shape[1], (targets != IGNORE_INDEX).numpy().ravel()  # (B * T,)
        places = np.minimum((first + np.flatnonzero(counted)) * self.count // self.positions, self.count - 1)
        nats = losses.double().cpu().numpy().ravel()[counted]
        for row, weights in enumerate((nats, None)):
            self.numbers[row] += np.bincount(places, weights=weights, minlength=self.count)

    def means(self) -> tuple[float, ...]:
        """Return the mean nats per token of each part that has tokens."""
        nats, tokens = self.numbers[:, self.numbers[1] > 0]
        return tuple((nats / tokens).tolist())


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


def window_batch(shards: TokenShards, starts: list[int], seq_len: int, pack: Literal["cross", "document"]) -> Batch:
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
