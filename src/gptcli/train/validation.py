"""The validation loss of a run: that of each corpus of its mix, and their mean by weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from gptcli.data.mix import PreparedMix
from gptcli.evaluate.shards import ShardLoss, ShardScorer
from gptcli.models.gpt import GPT


class Validation(NamedTuple):
    """`loss` in nats a token; `part`: how much of the validation tokens were read, 1 if all."""

    loss: float
    bits_per_byte: float | None
    """Bits per byte of all validation text, assuming the same loss per token where it was not read; None where the loss
    is of some tokens only."""
    part: float
    by_corpus: dict[str, float]
    """The loss of each corpus of a mix; `loss` is their mean by weight."""
    parts: tuple[float, ...] = ()
    """The loss in each of a few consecutive parts of what was read, of a mix their mean by weight; see `ShardLoss`."""
    figures: Mapping[str, float] = MappingProxyType({})
    """The means of the objective's figures, of a mix their mean by weight."""


class Validator:
    """Measures the validation loss of a run's models."""

    def __init__(self, data: PreparedMix, scorer: ShardScorer) -> None:
        self.data, self.scorer = data, scorer

    def measure(self, model: GPT, max_tokens: int, should_stop: Callable[[], bool] = bool) -> Validation:
        """Return the loss on about `max_tokens` of the validation part, of a mix on as many of each corpus.

        Raises:
            Interrupted: `should_stop()` was true.
            DataError: a part holds fewer than two tokens.
        """
        data = self.data
        mosts = allotted(max_tokens, [len(val) for val in data.vals])
        losses = [
            self.scorer.measure(model, val, most, should_stop) for val, most in zip(data.vals, mosts, strict=True)
        ]
        loss = sum(share * one.loss for share, one in zip(data.shares, losses, strict=True))
        size = sum(share * val.bytes / max(1, val.targets) for share, val in zip(data.shares, data.vals, strict=True))
        read, whole = sum(one.tokens for one in losses), sum(val.targets for val in data.vals)
        named = {name: one.loss for name, one in zip(data.names, losses, strict=True) if name}
        is_masked = any(val.is_masked for val in data.vals)
        bits = None if is_masked else loss / math.log(2) / max(size, 1e-9)
        part = 1.0 if all(one.is_whole for one in losses) else read / whole
        means = np.average([one.figures for one in losses], axis=0, weights=data.shares).tolist()
        figures = dict(zip(self.scorer.strategy.objective.figure_names, means, strict=True))
        return Validation(loss, bits, part, named, mixed_parts(losses, data.shares), figures)


def mixed_parts(losses: Sequence[ShardLoss], shares: Sequence[float]) -> tuple[float, ...]:
    """The losses of the parts of a mix, as many as every corpus has: weighted means of one part of every corpus."""
    count = min(len(one.parts) for one in losses)
    groups = ([group.mean() for group in np.array_split(one.parts, count)] for one in losses)
    return tuple(np.average(list(groups), axis=0, weights=shares).tolist())


def allotted(total: int, lengths: list[int]) -> Iterator[int]:
    """Yield an equal part of `total` for each length, at most that length; the others receive the rest."""
    left = total
    shares = dict.fromkeys(range(len(lengths)), 0)
    for done, number in enumerate(sorted(shares, key=lambda number: lengths[number])):
        shares[number] = min(lengths[number], left // (len(lengths) - done))
        left -= shares[number]
    yield from (max(1, share) for share in shares.values())
