"""The validation loss of a training loop: quick, the same tokens at every call, no randomness used or disturbed.

It reads the tokens as training does: documents end to end, in windows that do not overlap, or whole examples in rows.
The careful measurement, each document by itself and with overlapping windows, is in perplexity.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from gptcli.data.batch import Batch
from gptcli.data.config import Pack
from gptcli.data.shards import TokenShards
from gptcli.errors import DataError
from gptcli.evaluate.scoring import evaluation_mode
from gptcli.evaluate.shard_windows import ShardWindows, windows_of
from gptcli.models.gpt import GPT
from gptcli.nn.device import Precision, autocast
from gptcli.nn.loss import IGNORE_INDEX
from gptcli.objective.objective import Scores, target_count
from gptcli.parallel.strategy import Strategy

MOST_PARTS = 32
"""Parts for which the loss is reported separately, enough for a standard error that is itself known to an eighth."""


class Interrupted(Exception):
    """A measurement that was stopped on request."""


class ShardLoss(NamedTuple):
    """The mean loss in nats over the units of `tokens` target tokens; bits per byte of text only where the whole split
    was read, and the loss is of all of it.

    is_whole: whether the whole split was read.
    parts: the mean losses of up to MOST_PARTS consecutive parts of what was read, of about equal numbers of tokens.
        Every call with the same arguments has the same parts, whatever the model.
    figures: the means of the objective's figures.
    """

    loss: float
    tokens: int
    bits_per_byte: float | None
    is_whole: bool
    parts: tuple[float, ...] = ()
    figures: tuple[float, ...] = ()


@dataclass(frozen=True)
class ShardScorer:
    """Measures the loss of a model on token shards, which are cut into the same windows every time."""

    strategy: Strategy
    seq_len: int
    batch_size: int
    device: torch.device
    precision: Precision
    pack: Pack = "cross"
    """The reach of attention, as `data.pack`: with `document` no token sees the document before its own."""

    def measure(
        self, model: GPT, shards: TokenShards, max_tokens: int | None, should_stop: Callable[[], bool] = bool
    ) -> ShardLoss:
        """Return the loss on all of `shards`, or on about `max_tokens` of them in windows spread evenly.

        The targets of all of `shards` are the tokens of the stream but the first, each exactly once, including those
        that end documents; `mask_begin_tokens` leaves some out, as in training. Of examples they are the tokens of the
        loss mask. The loss is that of the strategy's objective. The ranks of the strategy share the batches; all call
        this and get the same result. The model's mode is restored.

        Args:
            should_stop: is called before each batch.

        Raises:
            Interrupted: `should_stop()` was true.
            DataError: the split holds fewer than two tokens.
        """
        if len(shards) < 2:
            raise DataError("the validation split holds fewer than two tokens", "give it more text (data.val_fraction)")
        windows = windows_of(shards, self.seq_len, max_tokens, self.pack)
        objective, layout, tokens = self.strategy.objective, self.strategy.layout, 0
        sums = PartSums(windows.positions, len(objective.figure_names))
        with evaluation_mode(model):
            for number, batch in enumerate(self.batches(windows)):
                if should_stop():
                    raise Interrupted
                with autocast(self.device, self.precision):
                    nats = model.token_losses(*batch.to(self.device).model_inputs)
                first = (number * layout.data_ranks + layout.data_rank) * self.batch_size * self.seq_len
                sums.add(first, objective.scores(nats, batch))
                tokens += target_count(batch)
        *summed, all_tokens = self.strategy.sum_over_data([*sums.numbers.ravel().tolist(), tokens])
        sums.numbers = np.array(summed).reshape(sums.numbers.shape)
        units, loss, *figures = sums.numbers.sum(axis=1).tolist()
        is_of_text = windows.is_whole and shards.bytes and not shards.is_masked
        return ShardLoss(
            loss / units,
            round(all_tokens),
            loss / shards.bytes / math.log(2) if is_of_text else None,
            windows.is_whole,
            sums.means(),
            tuple(total / units for total in figures),
        )

    def batches(self, windows: ShardWindows) -> Iterator[Batch]:
        """Yield this data rank's batches of the windows.

        Each rank has as many, since the ranks may compute together: one that has no batch left in the last round gets
        one whose targets are all ignored.
        """
        layout = self.strategy.layout
        numbers = range(len(windows))
        groups = [numbers[first : first + self.batch_size] for first in range(0, len(windows), self.batch_size)]
        for first in range(0, len(groups), layout.data_ranks):
            number = first + layout.data_rank
            batch = windows.batch(groups[min(number, len(groups) - 1)])
            is_left = number < len(groups)
            yield batch if is_left else batch._replace(targets=torch.full_like(batch.targets, IGNORE_INDEX))


class PartSums:
    """Sums over the units in each of up to MOST_PARTS consecutive parts of `positions` targets.

    `numbers` is (2 + K, parts): the number of units, and the sums of their losses and of each of `figures` figures.
    """

    def __init__(self, positions: int, figures: int = 0) -> None:
        self.positions, self.count = positions, min(positions, MOST_PARTS)
        self.numbers = np.zeros((2 + figures, self.count))

    def add(self, first: int, scores: Scores) -> None:
        """Add the units of consecutive windows, whose targets are numbered from `first` on."""
        places = np.minimum((first + scores.places) * self.count // self.positions, self.count - 1)
        for row, weights in enumerate((None, *scores.values)):
            self.numbers[row] += np.bincount(places, weights=weights, minlength=self.count)

    def means(self) -> tuple[float, ...]:
        """Return the mean loss of each part that has units."""
        units, losses = self.numbers[:2, self.numbers[0] > 0]
        return tuple((losses / units).tolist())
