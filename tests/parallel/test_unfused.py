"""Unfused matrices compute the same and have the same form on disk."""

from __future__ import annotations

import pytest
import torch

from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model, initial_weights
from gptcli.parallel.unfused import join_parts, parts_of, split_parts, unfuse

SHAPES = [{}, {"n_kv_head": 2, "bias": True}, {"mlp": "gelu", "norm": "layernorm"}]
IDS = torch.randint(31, (2, 16), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_of_parts_computes_what_the_fused_one_does(shape: dict) -> None:
    config = ModelConfig(vocab_size=31, context_length=16, n_layer=2, n_embd=32, **shape)
    model, in_parts = build_model(config, seed=1), build_model(config, device="meta")
    unfuse(in_parts)
    in_parts.load_state_dict(dict(split_parts(model.state_dict().items(), parts_of(model))), assign=True)
    torch.testing.assert_close(in_parts(IDS), model(IDS))


@pytest.mark.parametrize("shape", SHAPES)
def test_parts_put_together_are_the_fused_weights(shape: dict) -> None:
    config = ModelConfig(vocab_size=31, context_length=16, n_layer=2, n_embd=32, **shape)
    model = build_model(config, seed=1)
    weights, parts = model.state_dict(), parts_of(model)
    again = join_parts(dict(split_parts(weights.items(), parts)), parts)
    assert list(again) == list(weights)
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_weights_that_are_drawn_one_by_one_are_those_of_a_model() -> None:
    config = ModelConfig(vocab_size=31, context_length=16, n_layer=2, n_embd=32, bias=True, smear=True)
    model = build_model(config, seed=3)
    drawn = dict(initial_weights(build_model(config, device="meta"), 3))
    assert all(torch.equal(drawn[name], weight) for name, weight in model.state_dict().items())
