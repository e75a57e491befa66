"""Fused matrices held apart: q, k and v, or gate and up, as weights of their own, so that each can be cut by itself.

One matrix of q, k and v rows cannot be cut so that every rank has whole heads of each, nor can a piece of it be told
from its place. Where weights are cut up, the parts are modules below the fused one's name; checkpoints and exports keep
the fused form, whose names and shapes do not depend on who wrote them. Knows no ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, fused_rows
from gptcli.nn.layers import Linear

PART_NAMES = {"attention.qkv": ("q", "k", "v"), "mlp.up": ("gate", "up")}


class LinearParts(nn.Module):
    """What a Linear of fused rows computes, from a Linear for each of its parts."""

    def __init__(self, fused: nn.Linear, names: tuple[str, ...], rows: tuple[int, ...]) -> None:
        super().__init__()
        for name, count in zip(names, rows, strict=True):
            self.add_module(name, Linear(fused.in_features, count, bias=fused.bias is not None))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> (..., sum of the parts' rows), in the parts' order."""
        return torch.cat([part(x) for part in self.children()], dim=-1)


def hold_apart(model: GPT) -> None:
    """Replace the fused maps of a model on the meta device; the parts have no values yet."""
    with torch.device("meta"):
        for name, module in list(model.named_modules()):
            rows = fused_rows(f"{name}.weight", model.config)
            if rows:
                parent, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(parent), leaf, LinearParts(module, part_names(name), rows))


def part_names(module: str) -> tuple[str, ...]:
    """Of the fused map of that name, such as blocks.0.attention.qkv."""
    return PART_NAMES[".".join(module.split(".")[-2:])]


def parts_of(name: str, config: ModelConfig) -> list[tuple[str, int]]:
    """(name, rows) of the parts of a weight or bias of the model; none where it is not fused."""
    module, _, leaf = name.rpartition(".")
    rows = fused_rows(f"{module}.weight", config)
    return (
        [(f"{module}.{part}.{leaf}", count) for part, count in zip(part_names(module), rows, strict=True)]
        if rows
        else []
    )


def taken_apart(tensors: Iterable[tuple[str, Tensor]], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the fused form -> of the parts: views."""
    for name, tensor in tensors:
        parts = parts_of(name, config)
        if parts:
            pieces = tensor.split([rows for _, rows in parts])
            yield from zip((part for part, _ in parts), pieces, strict=True)
        else:
            yield name, tensor


def put_together(tensors: Mapping[str, Tensor], names: Iterable[str], config: ModelConfig) -> dict[str, Tensor]:
    """The way back: the tensors of `names`, which are those of the fused form."""
    together = {}
    for name in names:
        parts = parts_of(name, config)
        together[name] = torch.cat([tensors[part] for part, _ in parts]) if parts else tensors[name]
    return together
