"""How a step is shared among the ranks: what each backpropagates, when gradients are summed, and what all agree on.

`Replicated`: every rank has the whole model (DDP). `Sharded`: every rank has pieces (FSDP2, tensor parallelism). Both
give the optimizer plain tensors. What they keep for a checkpoint has the names and shapes of a single process, whole or
as this rank's pieces.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gptcli.checkpoint.flatten import flatten_state, restore_state
from gptcli.checkpoint.local_shards import LocalShard, LocalShards
from gptcli.models.gpt import GPT, build_model
from gptcli.nn.parameters import ParameterInfo
from gptcli.optim.clip import gradient_norm
from gptcli.parallel.apart import parts_of, put_together
from gptcli.parallel.layout import Layout
from gptcli.parallel.world import World

LossSum = Callable[[Tensor, Tensor, Tensor | None], Tensor]
State = dict[str, Tensor]


class Strategy:
    """What both kinds have in common.

    Attributes:
        infos: the parameters for the optimizer.
        loss_sum: what is backpropagated through, as GPT.loss_sum.
        loss_factor: what a rank multiplies its loss with, so that gradients come out as their sum over the ranks.
    """

    infos: list[ParameterInfo]
    loss_sum: LossSum
    loss_factor = 1.0

    def __init__(self, model: GPT, world: World, layout: Layout) -> None:
        self.model, self.world, self.layout = model, world, layout

    def count(self, tokens: int) -> int:
        """Tokens of this rank's share of a step -> of the whole step."""
        return self.world.sum([tokens])[0] // self.layout.tensor

    def sum_over_data(self, numbers: Sequence[float]) -> list[float]:
        """Of each of these numbers the sum over the shares of the data."""
        return self.world.sum_tensor(torch.tensor(numbers, dtype=torch.float64) / self.layout.tensor).tolist()

    def accumulating(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Around the backward pass of a micro-batch: gradients are summed over the ranks in that of the last only."""
        raise NotImplementedError

    def finish_gradients(self) -> None:
        """After the last backward pass: put the gradients where the optimizer looks for them."""

    def agreed(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """This rank's share of the mean loss -> the mean loss of the step and the norm of its gradient, on all ranks
        the same numbers."""
        norms = self.squared_norms().to(loss.device)
        both = torch.stack((loss.double() / self.layout.tensor, norms))
        loss_sum, norm_sum = self.world.sum_tensor(both)
        return loss_sum.to(loss.dtype), norm_sum.sqrt().float()

    def squared_norms(self) -> Tensor:
        """This rank's part of the squared norm of the gradient, each number of which is counted once in all, fp64."""
        by_copies: dict[int, list[nn.Parameter]] = {}
        for info in self.infos:
            copies = info.sharding.copies if info.sharding else self.world.size
            by_copies.setdefault(copies, []).append(info.tensor)
        parts = [gradient_norm(tensors).double().square() / copies for copies, tensors in by_copies.items()]
        return torch.stack([part.to(parts[0].device) for part in parts]).sum()

    def weights(self) -> State:
        """The weights as a checkpoint takes them: whole, or this rank's `LocalShards` of each."""
        raise NotImplementedError

    def whole_weights(self) -> State:
        """The whole weights, on the first rank; all ranks call it, and what the others get is of no use."""
        raise NotImplementedError

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take what `weights` gave, or the weights loaded into what `allocate` made."""
        raise NotImplementedError

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> tuple[State, dict[str, Any]]:
        """As `flatten_state` gives it on one process: whole tensors, or this rank's `LocalShards` of each."""
        return flatten_state(optimizer)

    def load_optimizer_state(
        self, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
    ) -> None:
        """Give the optimizer such a state."""
        restore_state(optimizer, tensors, rest)


class LossOf(nn.Module):
    """A loss as a module, whose forward pass DDP can be around."""

    def __init__(self, model: GPT, loss_sum: LossSum) -> None:
        super().__init__()
        self.model, self.loss_sum = model, loss_sum

    def forward(self, input_ids: Tensor, targets: Tensor, segment_ids: Tensor | None) -> Tensor:
        return self.loss_sum(input_ids, targets, segment_ids)


class Replicated(Strategy):
    """DDP: gradients are averaged while the backward pass goes on, so each rank's loss is scaled up before."""

    def __init__(self, model: GPT, world: World, layout: Layout, loss_sum: LossSum) -> None:
        super().__init__(model, world, layout)
        self.infos = model.parameter_infos()
        self.loss_factor = float(layout.data_ranks)
        # The only buffers are tables that every rank computes. Newer torch calls the option otherwise.
        has_new_name = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
        buffers = {"forward_sync_buffers" if has_new_name else "broadcast_buffers": False}
        self.module = DistributedDataParallel(LossOf(model, loss_sum), gradient_as_bucket_view=True, **buffers)
        self.loss_sum = self.module

    @contextlib.contextmanager
    def accumulating(self, is_last: bool):
        with contextlib.nullcontext() if is_last else self.module.no_sync():
            yield

    def weights(self) -> State:
        return self.model.state_dict()

    def whole_weights(self) -> State:
        return self.weights()

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(weights)


class Sharded(Strategy):
    """FSDP2 and tensor parallelism. The optimizer's tensors share the memory of the model's pieces."""

    def __init__(self, model: GPT, world: World, layout: Layout) -> None:
        from gptcli.parallel import sharded

        super().__init__(model, world, layout)
        self.sharded = sharded
        self.names = [name for name, _ in build_model(model.config, device="meta").named_parameters()]
        """Of the weights in the fused form."""
        self.infos, self.loss_sum = sharded.local_infos(model), model.loss_sum
        self.owners = [parameter for _, parameter in model.named_parameters()]
        self.by_name = {info.name: info for info in self.infos}
        # Every rank of a group has heads of its own, and so a part of the gradient of what all heads are scaled by.
        self.by_heads = [info for info in self.infos if layout.tensor > 1 and sharded.is_summed_by_heads(info.name)]
        self.tensor_group = sharded.tensor_group(model) if self.by_heads else None

    @contextlib.contextmanager
    def accumulating(self, is_last: bool):
        if self.layout.data_ranks > 1:
            self.model.set_is_last_backward(is_last)
            self.model.set_requires_gradient_sync(is_last)
        yield

    def finish_gradients(self) -> None:
        for owner, info in zip(self.owners, self.infos, strict=True):
            piece = self.sharded.local_of(owner.detach())
            if piece.data_ptr() != info.tensor.data_ptr():  # FSDP may move a piece once, before its first use
                info.tensor.data = piece
            info.tensor.grad = None if owner.grad is None else self.sharded.local_of(owner.grad)
            owner.grad = None
        if self.by_heads:
            grads = [info.tensor.grad for info in self.by_heads]
            summed = torch.cat([grad.flatten() for grad in grads])
            torch.distributed.all_reduce(summed, group=self.tensor_group)
            for grad, part in zip(grads, summed.split([grad.numel() for grad in grads]), strict=True):
                grad.copy_(part.view_as(grad))

    def weights(self) -> State:
        pieces = self.sharded.local_weights(self.model)
        return {name: self.fused(name, pieces) for name in self.names}

    def whole_weights(self) -> State:
        kept = {name: whole.cpu() for name, whole in self.sharded.whole_weights(self.model) if self.world.is_first}
        return put_together(kept, self.names, self.model.config) if self.world.is_first else {}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        local = self.sharded.local_weights(self.model)
        with torch.no_grad():
            for name in self.names:
                for part, piece in zip(self.parts(name), weights[name].tensors, strict=True):
                    local[part].copy_(piece)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> tuple[State, dict[str, Any]]:
        tensors, rest = flatten_state(optimizer)
        by_field: dict[str, State] = {}
        for key, tensor in tensors.items():
            part, _, field = key.rpartition("/")
            by_field.setdefault(field, {})[part] = tensor
        state = {
            f"{name}/{field}": self.fused(name, of_parts)
            for field, of_parts in by_field.items()
            for name in self.names
            if self.parts(name)[0] in of_parts
        }
        scalars = {
            name: rest["state"][self.parts(name)[0]] for name in self.names if self.parts(name)[0] in rest["state"]
        }
        return state, {**rest, "parameters": self.names, "state": scalars}

    def load_optimizer_state(
        self, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
    ) -> None:
        pieces: State = {}
        for key, tensor in tensors.items():
            name, _, field = key.rpartition("/")
            parts = self.parts(name)
            of_parts = tensor.tensors if isinstance(tensor, LocalShards) else [tensor.clone() for _ in parts]
            pieces |= {f"{part}/{field}": piece for part, piece in zip(parts, of_parts, strict=True)}
        parameters = [part for name in rest["parameters"] for part in self.parts(name)]
        state = {part: scalars for name, scalars in rest["state"].items() for part in self.parts(name)}
        restore_state(optimizer, pieces, {**rest, "parameters": parameters, "state": state})

    def allocate(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Where this rank loads what was saved as `name`, a weight or PARAMETER/FIELD of the optimizer's state."""
        parameter = name.rpartition("/")[0] or name
        parts = self.parts(parameter)
        if not shape or parts[0] not in self.by_name:
            return torch.empty(shape, dtype=dtype)
        empty = {part: torch.empty(self.by_name[part].sharding.shapes()[-1], dtype=dtype) for part in parts}
        return self.fused(parameter, empty)

    def fused(self, name: str, of_parts: Mapping[str, Tensor]) -> Tensor:
        """What this rank has of the parts of a weight, as its shards of the fused one. A counter, of which all parts
        have the same, stays what it is."""
        parts = self.parts(name)
        if not of_parts[parts[0]].dim():
            return of_parts[parts[0]]
        pieces, rows = [], 0
        for part in parts:
            sharding = self.by_name[part].sharding
            first, *others = sharding.offsets()
            pieces.append(LocalShard((rows + first, *others), of_parts[part].detach()))
            rows += sharding.shape[0]
        return LocalShards.of((rows, *sharding.shape[1:]), pieces[0].tensor.dtype, pieces)

    def parts(self, name: str) -> list[str]:
        """The names of the parts of a weight of the fused form; its own where it is not fused."""
        return [part for part, _ in parts_of(name, self.model.config)] or [name]
