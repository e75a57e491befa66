"""The validation loss of a run: of its one corpus, or of each corpus of a mix and their mean by weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch

from gptcli.data.mix import TokenMix
from gptcli.data.prepare import PreparedData
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
    data: PreparedData,
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

    if not isinstance(data.train, TokenMix):
        found = measure(data.val, max_tokens)
        is_whole = found.bits_per_byte is not None
        bits = found.bits_per_byte or estimated_bits(found.loss, data.val.targets, data.val.bytes)
        return Validation(found.loss, bits, 1.0 if is_whole else found.tokens / data.val.targets, {}, found.parts)
    shares = [weight / sum(data.train.weights) for weight in data.train.weights]
    mosts = list(allotted(max_tokens, [len(val) for val in data.vals]))
    losses = [measure(val, most) for val, most in zip(data.vals, mosts, strict=True)]
    loss = sum(share * one.loss for share, one in zip(shares, losses, strict=True))
    size = sum(share * val.bytes / max(1, val.targets) for share, val in zip(shares, data.vals, strict=True))
    read = sum(one.tokens for one in losses)
    whole = sum(val.targets for val in data.vals)
    named = dict(zip(data.train.names, (one.loss for one in losses), strict=True))
    return Validation(
        loss,
        loss / math.log(2) / max(size, 1e-9),
        1.0 if read >= whole else read / whole,
        named,
        mixed_parts(losses, shares),
    )


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


def estimated_bits(loss: float, tokens: int, size: int) -> float:
    """Bits per byte of `size` bytes of text in so many tokens, each of this loss in nats."""
    return loss / math.log(2) * tokens / max(1, size)
