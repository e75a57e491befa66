"""What a model is said to be made of and to cost, against the built model and torch's own counter."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gptcli.config import RawConfig, read_toml, validate
from gptcli.config.shipped import shipped_configs
from gptcli.models import estimate
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model

GPT2: dict[str, Any] = {"norm": "layernorm", "position": "learned", "mlp": "gelu_tanh", "qk_norm": False, "bias": True}
SHAPES = [
    {},
    GPT2,
    {"n_kv_head": 2, "tie_embeddings": False},
    {"n_kv_head": 1, "mlp": "geglu", "head_dim": 24},
    {"smear": True, "bigram_buckets": 50, "embedding_norm": True, "mlp": "relu2"},
    {"mlp": "gelu", "position": "none"},
]
PARTS = {"embedding": "embeddings", "position_embedding": "embeddings", "smear": "embeddings", "bigram": "embeddings",
         "head": "head", "embedding_norm": "norms", "final_norm": "norms", "attention_norm": "norms",
         "mlp_norm": "norms", "attention": "attention", "mlp": "mlp"}  # fmt: skip


def part_of(name: str) -> str:
    """The part that a parameter belongs to, by its name."""
    words = name.split(".")
    if words[0] == "blocks":
        return "norms" if words[3] in ("q_norm", "k_norm") else PARTS[words[2]]
    return PARTS[words[0]]


def counted_parts(config: ModelConfig) -> dict[str, int]:
    """Weights of the built model by part."""
    counts = dict.fromkeys(("embeddings", "attention", "mlp", "norms", "head"), 0)
    for name, tensor in build_model(config, device="meta").named_parameters():
        counts[part_of(name)] += tensor.numel()
    return counts


def counting() -> FlopCounterMode:
    """torch's counter, told of the one operator that it does not know."""

    def linear_flops(x: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
        return 2 * math.prod(x) * weight[0]

    return FlopCounterMode(display=False, custom_mapping={torch.ops.mkldnn._linear_pointwise: linear_flops})


@pytest.mark.parametrize("path", list(shipped_configs().values()), ids=lambda path: path.stem)
def test_every_shipped_shape_has_the_parameters_of_its_parts(path: Any) -> None:
    values = {"vocab_size": 32_000} | read_toml(path).values.get("model", {})
    config = validate(ModelConfig, RawConfig(values, {}))
    assert estimate.parameters_by_part(config) == counted_parts(config)


@pytest.mark.parametrize("slot", ["norm", "mlp", "position"])
def test_every_value_of_a_slot_is_in_a_shape(slot: str) -> None:
    values = get_args(ModelConfig.model_fields[slot].annotation)
    assert {getattr(ModelConfig(**shape), slot) for shape in SHAPES} == set(values)


@pytest.mark.parametrize("shape", SHAPES)
def test_parts_of_any_shape_are_those_of_the_built_model(shape: dict) -> None:
    config = ModelConfig(vocab_size=77, **shape)
    assert estimate.parameters_by_part(config) == counted_parts(config)


@pytest.mark.parametrize("shape", [*SHAPES, {"window_pattern": (0, 16)}])
def test_products_are_exactly_those_that_torch_counts(shape: dict) -> None:
    config = ModelConfig(vocab_size=100, **{**shape, "attention": "reference"})
    model, ids = build_model(config), torch.randint(100, (2, 64))
    with counting() as counter:
        model.loss_sum(ids, ids)
    assert counter.get_total_flops() == ids.numel() * sum(estimate.product_flops(config, 64).values())
    with counting() as counter:
        model.loss_sum(ids, ids).backward()
    assert counter.get_total_flops() == ids.numel() * estimate.training_product_flops(config, 64)


@pytest.mark.parametrize("shape", [{}, GPT2, {"n_kv_head": 2, "tie_embeddings": False}])
def test_the_formula_of_the_papers_adds_the_few_operations_of_norms_and_biases(shape: dict) -> None:
    config = ModelConfig(vocab_size=100, **shape)
    assert estimate.flops_per_token(config, 64) == pytest.approx(estimate.training_product_flops(config, 64), rel=0.01)


def test_flops_of_a_window_count_its_keys() -> None:
    full, windowed = ModelConfig(vocab_size=9), ModelConfig(vocab_size=9, window_pattern=(0, 16))
    saved = 12 * 4 * 32 * 2 * (256 - 16)
    assert estimate.flops_per_token(full, 256) - estimate.flops_per_token(windowed, 256) == saved
    assert estimate.flops_per_token(full, 8) == estimate.flops_per_token(windowed, 8)


@pytest.mark.parametrize("window", [0, 1, 5, 64, 100])
def test_the_mean_of_the_keys_is_that_of_the_mask(window: int) -> None:
    from gptcli.nn.mask import attention_mask

    mask = attention_mask(64, 64, window=window)
    seen = torch.ones(64, 64, dtype=torch.bool).tril() if mask is None else mask
    assert estimate.mean_keys(64, window) == pytest.approx(seen.sum().item() / 64)
