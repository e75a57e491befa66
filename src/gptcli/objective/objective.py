"""The objective of a training, and cross-entropy, the default.

Shapes: B batch, T time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gptcli.data.batch import Batch
from gptcli.models.gpt import GPT
from gptcli.nn.loss import IGNORE_INDEX

LossFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(input_ids (B, T), targets (B, T), segment_ids (B, T) or None) -> the sum of the nats, a scalar, or each, (B, T)."""


class LossSums(NamedTuple):
    """Sums over the units of a batch: the loss, a scalar with its gradient, and each of the figures, (K,)."""

    loss: Tensor
    figures: Tensor


class Objective(ABC):
    """What a training minimises: the mean of a loss over all units of a step, such as target tokens.

    Attributes:
        figure_names: the names, in metrics.jsonl, of further means over the units of a step.
    """

    figure_names: tuple[str, ...] = ()

    @abstractmethod
    def loss_function(self, model: GPT) -> LossFunction:
        """Return the part of the loss that the model computes, which is compiled and shared among ranks."""

    @abstractmethod
    def count(self, batch: Batch, tokens: int) -> int:
        """Return the number of units in a batch that has so many target tokens."""

    @abstractmethod
    def sums(self, loss_function: LossFunction, batch: Batch, device: torch.device) -> LossSums:
        """Return the sums over the units of a batch.

        Args:
            loss_function: that of the objective, or a compiled or wrapped form of it.
            batch: in the host's memory.
            device: the device of the model.
        """


class CrossEntropy(Objective):
    """The negative log-likelihood of the target tokens."""

    def loss_function(self, model: GPT) -> LossFunction:
        """Return the sum of the nats of the targets."""
        return model.loss_sum

    def count(self, batch: Batch, tokens: int) -> int:
        """Return the number of target tokens."""
        return tokens

    def sums(self, loss_function: LossFunction, batch: Batch, device: torch.device) -> LossSums:
        """Return the sum of the nats."""
        batch = batch.to(device)
        loss = loss_function(*batch.model_inputs)
        return LossSums(loss, loss.new_zeros(0))


CROSS_ENTROPY = CrossEntropy()


def target_count(batch: Batch) -> int:
    """Return the number of targets that are not ignored."""
    return int((batch.targets != IGNORE_INDEX).sum())
