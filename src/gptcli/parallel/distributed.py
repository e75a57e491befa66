"""The strategies of several ranks: DDP, and FSDP2 with tensor parallelism.

Both give the optimizer plain tensors. What they write to a checkpoint has the names and shapes of a single process,
whole or as this rank's shards.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from gptcli.checkpoint.flatten import flatten_state, restore_state
from gptcli.checkpoint.load import Checkpoint, load_checkpoint
from gptcli.checkpoint.local_shards import LocalShard, LocalShards, local_tensors
from gptcli.models.gpt import GPT, build_model, model_with
from gptcli.nn.parameters import declared_roles
from gptcli.objective.objective import CROSS_ENTROPY, LossFunction, Objective
from gptcli.parallel import sharded
from gptcli.parallel.layout import Layout
from gptcli.parallel.strategy import State, Strategy
from gptcli.parallel.unfused import join_parts, parts_of
from gptcli.parallel.world import World

CHECKPOINT_SECONDS = 3600.0
"""The longest time that a rank waits for another one to write its part of a checkpoint."""


class LossOf(nn.Module):
    """A loss as a module, so that DDP can wrap its forward pass."""

    def __init__(self, model: GPT, loss_function: LossFunction) -> None:
        super().__init__()
        self.model, self.loss_function = model, loss_function

    def forward(self, input_ids: Tensor, targets: Tensor, segment_ids: Tensor | None) -> Tensor:
        """Return the loss."""
        return self.loss_function(input_ids, targets, segment_ids)


class Replicated(Strategy):
    """DDP: every rank has the whole model. DDP averages gradients, so each rank's loss is scaled up before."""

    def __init__(
        self, model: GPT, world: World, layout: Layout, loss_function: LossFunction, objective: Objective
    ) -> None:
        super().__init__(model, world, layout, objective)
        self.infos = model.parameter_infos()
        self.loss_factor = float(layout.data_ranks)
        # The only buffers are tables that every rank computes. Newer versions of torch rename the option.
        has_new_name = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
        buffers: dict[str, Any] = {"forward_sync_buffers" if has_new_name else "broadcast_buffers": False}
        self.module = DistributedDataParallel(LossOf(model, loss_function), gradient_as_bucket_view=True, **buffers)
        self.loss_function = self.module

    def accumulating(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Return a context that synchronises gradients only in the last micro-batch."""
        return contextlib.nullcontext() if is_last else self.module.no_sync()


class Sharded(Strategy):
    """FSDP2 and tensor parallelism. The optimizer's tensors share the memory of the model's shards."""

    def __init__(self, model: GPT, world: World, layout: Layout, objective: Objective = CROSS_ENTROPY) -> None:
        super().__init__(model, world, layout, objective)
        self.fused_parts = parts_of(build_model(model.config, device="meta"))
        self.names = list(self.fused_parts)
        """The names of the weights in the fused form."""
        self.infos, self.loss_function = sharded.local_infos(model), objective.loss_function(model)
        self.owners = [parameter for _, parameter in model.named_parameters()]
        self.shardings = {name: sharded.sharding_of(parameter) for name, parameter in model.named_parameters()}
        # Every rank of a group has its own heads, and so only a part of the gradient of a weight that all heads share.
        per_head = {name for name, _, role in declared_roles(model) if role.per_head and layout.tensor > 1}
        self.by_heads = [info for info in self.infos if info.name in per_head]
        cuts = self.shardings["blocks.0.attention.output.weight"].cuts  # the outer one is that of tensor parallelism
        self.tensor_group = cuts[0].group if self.by_heads else None

    @functools.cached_property
    def group(self) -> ProcessGroup:
        """The group of all ranks for checkpoints, which a thread saves beside the training.

        A rank waits long for another one in it, whose disk may be slow; one that has ended is noticed at once.
        """
        timeout = timedelta(seconds=CHECKPOINT_SECONDS)
        group: ProcessGroup = torch.distributed.new_group(backend="gloo", timeout=timeout)
        return group

    @contextlib.contextmanager
    def accumulating(self, is_last: bool) -> Iterator[None]:
        """Return a context that synchronises gradients only in the last micro-batch."""
        if isinstance(self.model, FSDPModule):
            self.model.set_is_last_backward(is_last)
            self.model.set_requires_gradient_sync(is_last)
        yield
        if is_last:
            self.finish_gradients()

    def finish_gradients(self) -> None:
        """Give the optimizer's tensors the gradients of the model's parameters."""
        for owner, info in zip(self.owners, self.infos, strict=True):
            shard = sharded.local_of(owner.detach())
            if shard.data_ptr() != info.tensor.data_ptr():  # FSDP may move a shard once, before its first use
                info.tensor.data = shard
            info.tensor.grad = None if owner.grad is None else sharded.local_of(owner.grad)
            owner.grad = None
        if self.by_heads:
            grads = [info.tensor.grad for info in self.by_heads if info.tensor.grad is not None]
            summed = torch.cat([grad.flatten() for grad in grads])
            torch.distributed.all_reduce(summed, group=self.tensor_group)
            for grad, part in zip(grads, torch.split(summed, [grad.numel() for grad in grads]), strict=True):
                grad.copy_(part.view_as(grad))

    def weights(self) -> State:
        """Return the weights to be saved."""
        shards = sharded.local_weights(self.model)
        return {name: self.fused(name, shards) for name in self.names}

    def load_checkpoint(self, path: Path, parts: Sequence[str]) -> Checkpoint:
        """Read the parts of a checkpoint that this rank needs."""
        return load_checkpoint(path, parts, allocate=self.allocate, group=self.group)

    def whole_model(self) -> GPT:
        """Return the model with whole weights."""
        kept = {name: whole.cpu() for name, whole in sharded.whole_weights(self.model) if self.world.is_first}
        if not self.world.is_first:
            return self.model
        return model_with(self.model.config, join_parts(kept, self.fused_parts))

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Load whole weights into the model."""
        local = sharded.local_weights(self.model)
        with torch.no_grad():
            for name in self.names:
                for part, shard in zip(self.parts(name), local_tensors(weights[name]), strict=True):
                    local[part].copy_(shard)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> tuple[State, dict[str, Any]]:
        """Return the optimizer's tensors and other values to be saved."""
        tensors, rest = flatten_state(optimizer)
        by_field: dict[str, State] = {}
        for key, tensor in tensors.items():
            part, _, field = key.rpartition("/")
            by_field.setdefault(field, {})[part] = tensor
        first_parts = {name: self.parts(name)[0] for name in self.names}
        state = {
            f"{name}/{field}": self.fused(name, of_parts)
            for field, of_parts in by_field.items()
            for name, part in first_parts.items()
            if part in of_parts
        }
        scalars = {name: rest["state"][part] for name, part in first_parts.items() if part in rest["state"]}
        return state, {**rest, "parameters": self.names, "state": scalars}

    def load_optimizer_state(
        self, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
    ) -> None:
        """Load the optimizer's tensors and other values."""
        shards: State = {}
        for key, tensor in tensors.items():
            name, _, field = key.rpartition("/")
            parts = self.parts(name)
            of_parts = tensor.tensors if isinstance(tensor, LocalShards) else [tensor.clone() for _ in parts]
            shards |= {f"{part}/{field}": shard for part, shard in zip(parts, of_parts, strict=True)}
        parameters = [part for name in rest["parameters"] for part in self.parts(name)]
        state = {part: scalars for name, scalars in rest["state"].items() for part in self.parts(name)}
        restore_state(optimizer, shards, {**rest, "parameters": parameters, "state": state})

    def allocate(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return an empty tensor into which this rank loads `name`: a weight, or PARAMETER/FIELD of the optimizer."""
        parameter = name.rpartition("/")[0] or name
        parts = self.parts(parameter)
        if not shape or parts[0] not in self.shardings:
            return torch.empty(shape, dtype=dtype)
        empty = {part: torch.empty(self.shardings[part].shapes()[-1], dtype=dtype) for part in parts}
        return self.fused(parameter, empty)

    def fused(self, name: str, of_parts: Mapping[str, Tensor]) -> Tensor:
        """Return this rank's shards of a fused weight, from those of its parts. A counter is the same for all parts."""
        parts = self.parts(name)
        if not of_parts[parts[0]].dim():
            return of_parts[parts[0]]
        shards, rows = [], 0
        for part in parts:
            sharding = self.shardings[part]
            first, *others = sharding.offsets()
            shards.append(LocalShard((rows + first, *others), of_parts[part].detach()))
            rows += sharding.shape[0]
        return LocalShards.of((rows, *sharding.shape[1:]), shards[0].tensor.dtype, shards)

    def parts(self, name: str) -> list[str]:
        """Return the names of the parts of a fused weight; its own name where it is not fused."""
        return [part for part, _ in self.fused_parts.get(name, ())] or [name]
