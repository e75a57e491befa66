"""Strategies to share a training step among ranks: their interface, and the strategy of one process.

Nothing here needs torch.distributed. `distributed.py` has the strategies of several ranks.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gptcli.checkpoint.flatten import flatten_state, restore_state
from gptcli.checkpoint.load import Checkpoint, load_checkpoint
from gptcli.models.gpt import GPT
from gptcli.nn.parameters import ParameterInfo
from gptcli.optim.clip import gradient_norm
from gptcli.parallel.layout import Layout
from gptcli.parallel.world import World

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

LossSum = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(input_ids (B, T), targets (B, T), segment_ids (B, T) or None) -> summed nats, a scalar."""
State = dict[str, Tensor]


class Strategy(ABC):
    """A way for the ranks of `world` to train one model. Every rank makes the same calls in the same order.

    The methods that this class implements serve ranks that hold the whole model each.

    Attributes:
        infos: the parameters that the optimizer updates.
        loss_sum: the loss that is backpropagated, with the signature of `GPT.loss_sum`.
        loss_factor: the factor of a rank's loss that makes gradients their sum over the ranks.
    """

    infos: list[ParameterInfo]
    loss_sum: LossSum
    loss_factor = 1.0

    def __init__(self, model: GPT, world: World, layout: Layout) -> None:
        self.model, self.world, self.layout = model, world, layout

    @property
    def group(self) -> ProcessGroup | None:
        """The ranks that each read and write a part of a checkpoint; None where the first rank does it alone."""
        return None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The tensors whose gradients a step uses."""
        return [info.tensor for info in self.infos if info.tensor.requires_grad]

    def count(self, tokens: int) -> int:
        """Return the tokens of the whole step, given those of this rank's share."""
        return self.world.sum([tokens])[0] // self.layout.tensor

    def sum_over_data(self, numbers: Sequence[float]) -> list[float]:
        """Return the sum of each number over the shares of the data."""
        return self.world.sum_tensor(torch.tensor(numbers, dtype=torch.float64) / self.layout.tensor).tolist()

    @abstractmethod
    def accumulating(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Return the context for the backward pass of a micro-batch.

        After that of the last one, the `infos` hold the gradients, summed over the ranks.
        """

    def loss_and_norm(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss of the step and its gradient norm, the same numbers on every rank.

        Args:
            loss: this rank's share of the mean loss, a scalar.
        """
        norms = self.squared_norms().to(loss.device)
        both = torch.stack((loss.double() / self.layout.tensor, norms))
        loss_sum, norm_sum = self.world.sum_tensor(both)
        return loss_sum.to(loss.dtype), norm_sum.sqrt().float()

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
        """Return the weights for a checkpoint: whole tensors, or this rank's `LocalShards` of each."""
        return self.model.state_dict()

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Load weights as `load_checkpoint` reads them."""
        self.model.load_state_dict(weights)

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

    def __init__(self, model: GPT, loss_sum: LossSum | None = None) -> None:
        """
        Args:
            loss_sum: the model's loss where it is compiled; None: `model.loss_sum`.
        """
        super().__init__(model, World(), Layout())
        self.infos, self.loss_sum = model.parameter_infos(), loss_sum or model.loss_sum

    def accumulating(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Return a context that changes nothing."""
        return contextlib.nullcontext()

    def loss_and_norm(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the norm of the gradient."""
        return loss, gradient_norm(self.parameters)
