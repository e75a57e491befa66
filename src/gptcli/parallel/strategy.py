"""Strategies to share a training step among ranks: their interface, and the strategy of one process.

Nothing here needs torch.distributed. `distributed.py` has the strategies of several ranks.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gptcli.checkpoint.flatten import flatten_state, restore_state
from gptcli.checkpoint.load import Checkpoint, load_checkpoint
from gptcli.models.adapters import adapter_state, load_adapter_state
from gptcli.models.gpt import GPT
from gptcli.nn.parameters import ParameterInfo
from gptcli.objective.objective import CROSS_ENTROPY, LossFunction, Objective
from gptcli.optim.clip import gradient_norm
from gptcli.parallel.layout import Layout
from gptcli.parallel.world import World

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

State = dict[str, Tensor]


class Strategy(ABC):
    """A way for the ranks of `world` to train one model. Every rank makes the same calls in the same order.

    The methods that this class implements serve ranks that hold the whole model each.

    Attributes:
        infos: the parameters that the optimizer updates.
        objective: what the training minimises.
        loss_function: that of the objective, compiled and wrapped as the ranks need it.
        loss_factor: the factor of a rank's loss that makes gradients their sum over the ranks.
    """

    infos: list[ParameterInfo]
    loss_function: LossFunction
    loss_factor = 1.0

    def __init__(self, model: GPT, world: World, layout: Layout, objective: Objective) -> None:
        self.model, self.world, self.layout, self.objective = model, world, layout, objective

    @property
    def group(self) -> ProcessGroup | None:
        """The ranks that each read and write a part of a checkpoint; None where the first rank does it alone."""
        return None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The tensors whose gradients a step uses."""
        return [info.tensor for info in self.infos if info.tensor.requires_grad]

    def counts(self, numbers: Sequence[int]) -> list[int]:
        """Return each count for the whole step, given those of this rank's share."""
        return [total // self.layout.tensor for total in self.world.sum(numbers)]

    def sum_over_data(self, numbers: Sequence[float]) -> list[float]:
        """Return the sum of each number over the shares of the data."""
        return self.world.sum_tensor(torch.tensor(numbers, dtype=torch.float64) / self.layout.tensor).tolist()

    @abstractmethod
    def accumulating(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Return the context for the backward pass of a micro-batch.

        After that of the last one, the `infos` hold the gradients, summed over the ranks.
        """

    def means_and_norm(self, means: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means of the step and its gradient norm, the same numbers on every rank.

        Args:
            means: this rank's share of the mean loss and of the means of the objective's figures, (1 + K,).
        """
        norms = self.squared_norms().to(means.device)
        both = torch.cat((means.double() / self.layout.tensor, norms[None]))
        summed = self.world.sum_tensor(both)
        return summed[:-1].to(means.dtype), summed[-1].sqrt().float()

    def squared_norms(self) -> Tensor:
        """Return this rank's part of the squared gradient norm (fp64); the ranks together count each number once."""
        by_copies: dict[int, list[nn.Parameter]] = {}
        for info in self.infos:
            copies = info.sharding.copies if info.sharding else self.world.size
            by_copies.setdefault(copies, []).append(info.tensor)
        parts = [gradient_norm(tensors).double().square() / copies for copies, tensors in by_copies.items()]
        return torch.stack([part.to(parts[0].device) for part in parts]).sum()

    def load_checkpoint(self, path: Path, parts: Sequence[str]) -> Checkpoint:
        """Read what `load_weights` and `load_optimizer_state` need of a checkpoint.

        Raises:
            CheckpointError: a file is damaged or missing.
        """
        return load_checkpoint(path, parts)

    def weights(self) -> State:
        """Return the trained weights for a checkpoint: whole tensors, or this rank's `LocalShards` of each."""
        return adapter_state(self.model)

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Load weights as `load_checkpoint` reads them."""
        load_adapter_state(self.model, weights)

    def whole_model(self) -> GPT:
        """Return the model with whole weights. Every rank calls this, and only the first may use the result."""
        return self.model

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> tuple[State, dict[str, Any]]:
        """Return the optimizer's state for a checkpoint, in the form of `flatten_state`."""
        return flatten_state(optimizer)

    def load_optimizer_state(
        self, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
    ) -> None:
        """Load a state of the form that `optimizer_state` returns."""
        restore_state(optimizer, tensors, rest)


class Alone(Strategy):
    """One process that trains the whole model on all of the data."""

    def __init__(
        self, model: GPT, loss_function: LossFunction | None = None, objective: Objective = CROSS_ENTROPY
    ) -> None:
        """
        Args:
            loss_function: that of the objective where it is compiled; None: the plain one.
        """
        super().__init__(model, World(), Layout(), objective)
        self.infos, self.loss_function = model.parameter_infos(), loss_function or objective.loss_function(model)

    def accumulating(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Return a context that changes nothing."""
        return contextlib.nullcontext()

    def means_and_norm(self, means: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means and the norm of the gradient."""
        return means, gradient_norm(self.parameters)
