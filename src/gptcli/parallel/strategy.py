"""How a step is shared among the ranks: what each backpropagates, when gradients are summed, and what all agree on.

`Replicated`: every rank has the whole model (DDP). `Sharded`: every rank has pieces (FSDP2, tensor parallelism). Both
give the optimizer plain tensors, and keep the state of training in the form of a single process.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gptcli.checkpoint.flatten import flatten_state, restore_state
from gptcli.models.gpt import GPT, build_model
from gptcli.nn.parameters import ParameterInfo
from gptcli.optim.clip import gradient_norm
from gptcli.parallel.apart import parts_of, put_together, taken_apart
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

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take this rank's part of the whole weights."""
        raise NotImplementedError

    def weights(self) -> State:
        """The whole weights, on the first rank; all ranks call it, and what the others get is of no use."""
        raise NotImplementedError

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> tuple[State, dict[str, Any]]:
        """As `flatten_state` gives it on one process, on the first rank; all ranks call it."""
        return flatten_state(optimizer)

    def load_optimizer_state(
        self, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
    ) -> None:
        """Give the optimizer this rank's part of such a state."""
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

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(weights)

    def weights(self) -> State:
        return self.model.state_dict()


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

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        self.sharded.fill(self.model, weights.items())

    def weights(self) -> State:
        return self.on_first(self.sharded.whole_weights(self.model), self.names)

    def on_first(self, tensors: Iterable[tuple[str, Tensor]], names: Iterable[str]) -> State:
        """Whole tensors that all ranks gather, in the fused form, in the first one's own memory."""
        kept = {name: tensor.cpu() for name, tensor in tensors if self.world.is_first}
        return put_together(kept, names, self.model.config) if self.world.is_first else {}

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> tuple[State, dict[str, Any]]:
        tensors, rest = flatten_state(optimizer)
        fields = dict.fromkeys(key.rpartition("/")[2] for key in tensors)
        together: State = {}
        for field in fields:
            of_field = {key.rpartition("/")[0]: tensor for key, tensor in tensors.items() if key.endswith(f"/{field}")}
            names = [name for name in self.names if self.parts(name)[0] in of_field]
            if next(iter(of_field.values())).dim() == 0:  # counters, of which the parts of one weight have the same
                made = {name: of_field[self.parts(name)[0]] for name in names}
            else:
                whole = ((name, self.by_name[name].sharding.gather(piece)) for name, piece in of_field.items())
                made = self.on_first(whole, names)
            together |= {f"{name}/{field}": tensor for name, tensor in made.items()}
        of_whole = {name: rest["state"].get(self.parts(name)[0], {}) for name in self.names}
        state = {name: scalars for name, scalars in of_whole.items() if self.parts(name)[0] in rest["state"]}
        return together, {**rest, "parameters": self.names, "state": state}

    def load_optimizer_state(
        self, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
    ) -> None:
        pieces: State = {}
        for key, tensor in tensors.items():
            name, _, field = key.rpartition("/")
            for part, whole in (
                taken_apart([(name, tensor)], self.model.config) if tensor.dim() else self.copies(name, tensor)
            ):
                sharding = self.by_name[part].sharding
                pieces[f"{part}/{field}"] = sharding.take(whole).clone() if tensor.dim() else whole
        parameters = [part for name in rest["parameters"] for part in self.parts(name)]
        state = {part: scalars for name, scalars in rest["state"].items() for part in self.parts(name)}
        restore_state(optimizer, pieces, {**rest, "parameters": parameters, "state": state})

    def parts(self, name: str) -> list[str]:
        """The names of the parts of a weight of the fused form; its own where it is not fused."""
        return [part for part, _ in parts_of(name, self.model.config)] or [name]

    def copies(self, name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
        return [(part, tensor.clone()) for part in self.parts(name)]
