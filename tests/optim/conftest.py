"""Parameters as a model would describe them, and gradients that are the same for everyone who asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

from gptcli.nn.parameters import ParameterInfo

SHAPES = {
    "embedding.weight": ((11, 8), "embedding", ()),
    "blocks.0.attention.qkv.weight": ((16, 8), "matrix", (8, 4, 4)),
    "blocks.0.attention.output.weight": ((8, 8), "matrix", ()),
    "blocks.0.mlp.up.weight": ((24, 8), "matrix", (12, 12)),
    "blocks.0.mlp.down.weight": ((8, 12), "matrix", ()),
    "blocks.0.mlp_norm.weight": ((8,), "vector", ()),
    "head.weight": ((11, 8), "head", ()),
}


@pytest.fixture
def make_infos() -> Callable[[], list[ParameterInfo]]:
    """The parameters of a very small model, drawn anew (with the same values) at every call."""

    def make() -> list[ParameterInfo]:
        generator = torch.Generator().manual_seed(0)
        return [
            ParameterInfo(name, nn.Parameter(torch.randn(shape, generator=generator)), kind, splits)
            for name, (shape, kind, splits) in SHAPES.items()
        ]

    return make


@pytest.fixture
def give_gradients() -> Callable[[Iterable[Tensor], int], None]:
    """Sets gradients that depend on the step and the parameter's place only."""

    def give(parameters: Iterable[Tensor], step: int) -> None:
        generator = torch.Generator().manual_seed(1000 + step)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)

    return give
