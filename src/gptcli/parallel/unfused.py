"""Unfused matrices: q, k and v, or gate and up, as weights of their own, so that each can be cut by itself.

One matrix of q, k and v rows cannot be cut so that every rank has whole heads of each, nor does the place of a piece
say which of them it belongs to. Where weights are cut, the parts are modules below the fused one's name; checkpoints
and exports keep the fused form, whose names and shapes do not depend on the ranks that wrote them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from gptcli.models.gpt import GPT
from gptcli.nn.layers import Linear
from gptcli.nn.parameters import declared_roles

Parts = Mapping[str, tuple[tuple[str, int], ...]]
"""Name of each parameter in the fused form -> (name, rows) of its parts; empty for a parameter that is one matrix."""


class UnfusedLinear(nn.Module):
    """A Linear of fused rows, computed by one Linear for each of its parts."""

    def __init__(self, fused: Linear) -> None:
        super().__init__()
        for name, rows in fused.roles["weight"].parts:
            self.add_module(name, Linear(fused.in_features, rows, bias=fused.bias is not None))

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., C) to (..., sum of the parts' rows), in the parts' order."""
        return torch.cat([part(x) for part in self.children()], dim=-1)


def parts_of(model: GPT) -> Parts:
    """Return the parts of every parameter of a model in the fused form."""
    found = {}
    for name, _, role in declared_roles(model):
        module, _, own_name = name.rpartition(".")
        found[name] = tuple((f"{module}.{part}.{own_name}", rows) for part, rows in role.parts)
    return found


def unfuse(model: GPT) -> None:
    """Replace the fused linear maps of a model on the meta device; the parts have no values yet."""
    with torch.device("meta"):
        for name, module in list(model.named_modules()):
            if isinstance(module, Linear) and module.roles["weight"].parts:
                parent, _, own_name = name.rpartition(".")
                setattr(model.get_submodule(parent), own_name, UnfusedLinear(module))


def split_parts(tensors: Iterable[tuple[str, Tensor]], parts: Parts) -> Iterator[tuple[str, Tensor]]:
    """Split the tensors of the fused form into those of the parts, which are views: (name, tensor) each."""
    for name, tensor in tensors:
        if parts[name]:
            pieces = torch.split(tensor, [rows for _, rows in parts[name]])
            yield from zip((part for part, _ in parts[name]), pieces, strict=True)
        else:
            yield name, tensor


def join_parts(tensors: Mapping[str, Tensor], parts: Parts) -> dict[str, Tensor]:
    """Join the parts' tensors to those of the fused form."""
    return {
        name: torch.cat([tensors[part] for part, _ in names]) if names else tensors[name]
        for name, names in parts.items()
    }
