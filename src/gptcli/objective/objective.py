"""The objective of a training, and cross-entropy, the default.

Shapes: B batch, T time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
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


class Scores(NamedTuple):
    """The units of a batch one by one: their places among its B * T targets, (N,), and loss and figures, (1 + K, N)."""

    places: np.ndarray
    values: np.ndarray


class Objective(ABC):
    """The function that a training minimises: the mean of a loss over all units of a step, such as target tokens.

    Attributes:
        figure_names: the names, in metrics.jsonl, of further means over the units of a step.
        shown: those of them that are shown during the training.
        compares: whether a batch has the nats of a reference model.
    """

    figure_names: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    compares = False

    def shown_figures(self, values: Mapping[str, float], prefix: str = "") -> dict[str, str]:
        """Return the figures to show, in words, of those that `values` has under their names with a prefix."""
        names = [name for name in self.shown if prefix + name in values]
        return {name.replace("_", " "): f"{values[prefix + name]:.3f}" for name in names}

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

    @abstractmethod
    def scores(self, nats: Tensor, batch: Batch) -> Scores:
        """Return loss and figures of each unit.

        Args:
            nats: those of each target, (B, T).
            batch: in the host's memory.
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

    def scores(self, nats: Tensor, batch: Batch) -> Scores:
        """Return the nats of each target."""
        places = np.flatnonzero((batch.targets != IGNORE_INDEX).numpy().ravel())
        return Scores(places, nats.double().cpu().numpy().ravel()[places][None])


CROSS_ENTROPY = CrossEntropy()


def target_count(batch: Batch) -> int:
    """Return the number of targets that are not ignored."""
    return int((batch.targets != IGNORE_INDEX).sum())
