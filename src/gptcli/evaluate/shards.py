"""The validation loss of a training loop: quick, the same tokens at every call, no randomness used or disturbed.

It reads the token stream as training does, documents end to end, in windows that do not overlap; the careful
measurement, each document by itself and with overlapping windows, is in perplexity.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

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

if TYPE_CHECKING:  # it loads torch.distributed, which a process that is alone does without
    from gptcli.parallel.layout import Layout
    from gptcli.parallel.strategy import Strategy


MOST_PARTS = 32
"""Parts for which the loss is reported separately, enough for a standard error that is itself known to an eighth."""


class Interrupted(Exception):
    """The measurement was given up, as it was asked to."""


class ShardLoss(NamedTuple):
    """Mean loss in nats over `tokens` target tokens; bits per byte of text only where the whole split was read.

    parts: the mean loss of each of up to MOST_PARTS consecutive parts of what was read, which have about as many tokens
        each. They are the same parts at every call with the same arguments, whatever the model.
    """

    loss: float
    tokens: int
    bits_per_byte: float | None
    parts: tuple[float, ...] = ()


def shard_loss(
    model: GPT,
    shards: TokenShards,
    *,
    seq_len: int,
    batch_size: int,
    max_tokens: int | None,
    device: torch.device,
    precision: Precision,
    pack: Literal["cross", "document"] = "cross",
    give_up: Callable[[], bool] = bool,
    strategy: Strategy | None = None,
) -> ShardLoss:
    """The loss over the whole split, or over windows of `seq_len` spread evenly over it, `max_tokens` in all.

    The targets of the whole split are every token of the stream but the first, the tokens that end documents included,
    each exactly once; as in training a token that begins a document is none after one that ends another. `pack` is as
    in training: with "document" no position sees the document before its own. `give_up()` is asked before each batch.
    The model's mode is put back. With a `strategy` the batches are dealt out to its ranks, all of which call this; what
    they return is the same.

    Raises:
        Interrupted: `give_up()` was true.
        DataError: the split holds fewer than two tokens.
    """
    if len(shards) < 2:
        raise DataError("the validation split holds fewer than two tokens", "give it more text (data.val_fraction)")
    starts = window_starts(len(shards), seq_len, max_tokens)
    sums = PartSums(min(len(starts) * seq_len, len(shards) - 1))
    rank, ranks = (strategy.layout.data_rank, strategy.layout.data_ranks) if strategy else (0, 1)
    with evaluation_mode(model):
        how = (shards, starts, seq_len, batch_size, pack)
        dealt = batches(*how) if strategy is None else dealt_batches(*how, strategy.layout)
        for number, batch in enumerate(dealt):
            if give_up():
                raise Interrupted
            input_ids, targets, segment_ids = (tensor if tensor is None else tensor.to(device) for tensor in batch)
            with autocast(device, precision):
                losses = model.token_losses(input_ids, targets, segment_ids)
            sums.add((number * ranks + rank) * batch_size, losses, batch.targets)
    if strategy is not None:
        sums.numbers = np.array(strategy.sum_over_data(sums.numbers.ravel().tolist())).reshape(2, -1)
    nats, tokens = sums.numbers.sum(axis=1).tolist()
    is_whole = max_tokens is None or len(shards) - 1 <= max_tokens
    bits_per_byte = nats / shards.bytes / math.log(2) if is_whole and shards.bytes else None
    return ShardLoss(nats / tokens, round(tokens), bits_per_byte, sums.means())


class PartSums:
    """Sums of nats and of tokens in each of up to MOST_PARTS consecutive parts of `positions` targets."""

    def __init__(self, positions: int) -> None:
        self.positions, self.count = positions, min(positions, MOST_PARTS)
        self.numbers = np.zeros((2, self.count))

    def add(self, window: int, losses: Tensor, targets: Tensor) -> None:
        """losses and targets (B, T) of consecutive windows, the first of which is number `window`."""
        first, counted = window * targets.shape[1], (targets != IGNORE_INDEX).numpy().ravel()  # (B * T,)
        places = np.minimum((first + np.flatnonzero(counted)) * self.count // self.positions, self.count - 1)
        nats = losses.double().cpu().numpy().ravel()[counted]
        for row, weights in enumerate((nats, None)):
            self.numbers[row] += np.bincount(places, weights=weights, minlength=self.count)

    def means(self) -> tuple[float, ...]:
        """Nats a token in each part that has tokens."""
        nats, tokens = self.numbers[:, self.numbers[1] > 0]
        return tuple((nats / tokens).tolist())


def dealt_batches(
    shards: TokenShards,
    starts: list[int],
    seq_len: int,
    batch_size: int,
    pack: Literal["cross", "document"],
    layout: Layout,
) -> Iterator[Batch]:
    """Of all batches those of this data rank. Each rank has as many, since they may compute together: where there is
    none left in the last round it has one of which nothing counts."""
    groups = [starts[first : first + batch_size] for first in range(0, len(starts), batch_size)]
    for first in range(0, len(groups), layout.data_ranks):
        number = first + layout.data_rank
        (batch,) = batches(shards, groups[min(number, len(groups) - 1)], seq_len, batch_size, pack)
        is_left = number < len(groups)
        yield batch if is_left else batch._replace(targets=torch.full_like(batch.targets, IGNORE_INDEX))


def window_starts(length: int, seq_len: int, max_tokens: int | None) -> list[int]:
    """Where the windows begin in a stream of `length` tokens.

    The whole stream is cut into windows of seq_len targets, the last one possibly shorter; when that is more than
    max_tokens, so many whole windows as fit (at least one), the i-th of k at the i/k-th part of the stream.
    """
    targets = length - 1
    if max_tokens is None or targets <= max_tokens:
        return list(range(0, targets, seq_len))
    whole = targets // seq_len
    count = min(whole, max(1, max_tokens // seq_len))
    return [index * whole // count * seq_len for index in range(count)] or [0]


def batches(
    shards: TokenShards, starts: list[int], seq_len: int, batch_size: int, pack: Literal["cross", "document"]
) -> Iterator[Batch]:
    """The windows in batches; one that the stream's end cuts short is padded, and its padding ignored.

    T is always seq_len and B changes in the last batch only, so that a compiled model is compiled at most twice.
    """
    for first in range(0, len(starts), batch_size):
        chosen = starts[first : first + batch_size]
        input_ids = np.zeros((len(chosen), seq_len), dtype=np.int64)
        targets = np.full((len(chosen), seq_len), IGNORE_INDEX, dtype=np.int64)
        for row, start in enumerate(chosen):
            ids = shards.read(start, min(start + seq_len + 1, len(shards)))
            input_ids[row, : len(ids) - 1] = ids[:-1]
            targets[row, : len(ids) - 1] = ids[1:]
        mask_begin_tokens(targets, shards.framing)
        segment_ids = None
        if pack == "document":
            positions = np.asarray(chosen)[:, None] + np.arange(seq_len + 1)
            numbers = np.searchsorted(shards.document_starts, positions.astype(np.uint64), side="right")  # (B, T + 1)
            segment_ids = torch.from_numpy(numbers[:, :-1].copy())
            if shards.framing.begin_id is None:  # As in training: nothing foretells the next document's text.
                targets[numbers[:, 1:] != numbers[:, :-1]] = IGNORE_INDEX
        yield Batch(torch.from_numpy(input_ids), torch.from_numpy(targets), segment_ids)
