"""The validation loss of a run: of its one corpus, or of each corpus of a mix and their mean by weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch

from gptcli.data.mix import PreparedMix
from gptcli.data.shards import TokenShards
from gptcli.evaluate.shards import ShardLoss, shard_loss
from gptcli.models.gpt import GPT
from gptcli.nn.device import Precision

if TYPE_CHECKING:  # it loads torch.distributed, which a process that trains alone does without
    from gptcli.parallel.strategy import Strategy


class Validation(NamedTuple):
    """`loss` in nats a token; `part`: how much of the validation tokens were read, 1 if all."""

    loss: float
    bits_per_byte: float
    """As if what was not read had the same loss a token."""
    part: float
    by_corpus: dict[str, float]
    """Of a mix, the loss of each corpus, of which `loss` is the mean by weight."""
    parts: tuple[float, ...] = ()
    """The loss in each of a few consecutive parts of what was read, of a mix their mean by weight; see `ShardLoss`."""


def validation_loss(
    model: GPT,
    data: PreparedMix,
    *,
    seq_len: int,
    batch_size: int,
    max_tokens: int,
    device: torch.device,
    precision: Precision,
    pack: Literal["cross", "document"],
    give_up: Callable[[], bool] = bool,
    strategy: Strategy | None = None,
) -> Validation:
    """Measure about `max_tokens` of the validation part, of a mix as many of each corpus; see `shard_loss`.

    Raises:
        Interrupted: `give_up()` was true.
        DataError: a part holds fewer than two tokens.
    """

    def measure(shards: TokenShards, most: int) -> ShardLoss:
        return shard_loss(
            model,
            shards,
            seq_len=seq_len,
            batch_size=batch_size,
            max_tokens=most,
            device=device,
            precision=precision,
            pack=pack,
            give_up=give_up,
            strategy=strategy,
        )

    mosts = allotted(max_tokens, [len(val) for val in data.vals])
    losses = [measure(val, most) for val, most in zip(data.vals, mosts, strict=True)]
    loss = sum(share * one.loss for share, one in zip(data.shares, losses, strict=True))
    size = sum(share * val.bytes / max(1, val.targets) for share, val in zip(data.shares, data.vals, strict=True))
    read, whole = sum(one.tokens for one in losses), sum(val.targets for val in data.vals)
    named = {name: one.loss for name, one in zip(data.names, losses, strict=True) if name}
    bits = loss / math.log(2) / max(size, 1e-9)
    part = 1.0 if all(one.bits_per_byte is not None for one in losses) else read / whole
    return Validation(loss, bits, part, named, mixed_parts(losses, data.shares))


def mixed_parts(losses: Sequence[ShardLoss], shares: Sequence[float]) -> tuple[float, ...]:
    """The losses of the parts of a mix, as many as every corpus has: weighted means of one part of every corpus."""
    count = min(len(one.parts) for one in losses)
    groups = ([group.mean() for group in np.array_split(one.parts, count)] for one in losses)
    return tuple(np.average(list(groups), axis=0, weights=shares).tolist())


def allotted(total: int, lengths: list[int]) -> Iterator[int]:
    """As much of `total` for each, but no more than there is of it; what that leaves is for the others."""
    left = total
    shares = dict.fromkeys(range(len(lengths)), 0)
    for done, number in enumerate(sorted(shares, key=lambda number: lengths[number])):
        shares[number] = min(lengths[number], left // (len(lengths) - done))
        left -= shares[number]
    yield from (max(1, share) for share in shares.values())
