"""Roles are read from the modules that declare them, wherever a module stands."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model, initial_weights
from gptcli.nn.layers import Linear
from gptcli.nn.parameters import MATRIX, Role, declared_roles


class Adapted(nn.Module):
    """A linear map with a correction of low rank, in place of a Linear."""

    def __init__(self, base: Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.empty(2, base.in_features))
        self.up = nn.Parameter(torch.empty(base.out_features, 2))
        self.roles = {"down": MATRIX, "up": Role("matrix", "zeros")}

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.mT @ self.up.mT


def test_a_module_that_replaces_another_declares_its_own_parameters() -> None:
    with torch.device("meta"):
        model = build_model(ModelConfig(vocab_size=7, n_layer=1, tie_embeddings=False, bias=True), device="meta")
        model.blocks[0].attention.output = Adapted(model.blocks[0].attention.output)
    roles = {name: role for name, _, role in declared_roles(model)}
    assert list(roles) == [name for name, _ in model.named_parameters()]
    assert roles["blocks.0.attention.output.base.weight"] == Role("matrix", "residual")
    assert roles["blocks.0.attention.output.up"].init == "zeros"
    drawn = dict(initial_weights(model, 0))
    assert not drawn["blocks.0.attention.output.up"].any() and drawn["blocks.0.attention.output.down"].all()


def test_heads_share_only_the_norms_of_queries_and_keys() -> None:
    model = build_model(ModelConfig(vocab_size=7, n_layer=1), device="meta")
    shared = [name for name, _, role in declared_roles(model) if role.per_head]
    assert shared == ["blocks.0.attention.q_norm.weight", "blocks.0.attention.k_norm.weight"]
