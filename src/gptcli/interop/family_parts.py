"""Parts of tables that several families share: names of activations, orders of rows, and checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gptcli.interop.family import show
from gptcli.models.config import ModelConfig

PLAIN_MLPS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu2": "relu2", "gelu_pytorch_tanh": "gelu_tanh"}
"""transformers' names of activations without a gate -> ours."""

PLAIN_SLOTS: dict[str, tuple[Any, ...]] = {
    "norm": ("layernorm",),
    "mlp": ("gelu", "gelu_tanh", "relu2"),
    "qk_norm": (False,),
    "bias": (True, False),
}
"""The slots of the classes with LayerNorm and an MLP without a gate, but for their positions."""


def qkv_rows(config: ModelConfig) -> tuple[int, int, int]:
    """Return the rows of the query, key and value projections, in the order in which `attention.qkv` fuses them."""
    kv_rows = config.kv_heads * config.head_width
    return config.n_head * config.head_width, kv_rows, kv_rows


def gate_up_rows(config: ModelConfig) -> tuple[int, int]:
    """Return the rows of a gated MLP's gate and up projections, in the order in which `mlp.up` fuses them."""
    return config.mlp_width, config.mlp_width


def rotated_order(config: ModelConfig, head: Sequence[int]) -> list[int]:
    """Return the order of the rows of `attention.qkv` where `head` orders those of each head of q and k."""
    width, rotated = config.head_width, (config.n_head + config.kv_heads) * config.head_width
    rows = [start + row for start in range(0, rotated, width) for row in head]
    return rows + list(range(rotated, sum(qkv_rows(config))))


def pairs_order(config: ModelConfig) -> list[int]:
    """Return the order for a RoPE that turns neighbours (x[2i], x[2i + 1]) where ours turns (x[i], x[i + D/2])."""
    return rotated_order(config, [*range(0, config.head_width, 2), *range(1, config.head_width, 2)])


def with_biases(config: ModelConfig) -> ModelConfig:
    """Return the config for a class that always has biases, where a model without them has biases of zero."""
    return config.model_copy(update={"bias": True, "qkv_bias": None})


def full_heads(config: ModelConfig) -> list[str]:
    """Return the obstacles to a class with as many keys as queries, whose heads together are as wide as the model."""
    wrong = []
    if config.kv_heads != config.n_head:
        wrong.append(f"n_kv_head must be n_head ({config.n_head}), not {config.kv_heads}")
    if config.head_width * config.n_head != config.n_embd:
        wrong.append(f"n_head * head_dim must be n_embd ({config.n_embd}), not {config.n_head * config.head_width}")
    return wrong


def no_windows(config: ModelConfig) -> list[str]:
    """Return the obstacles to a class without sliding windows."""
    return ["it has no sliding windows"] if any(config.window_pattern) else []


def uniform_bias(config: ModelConfig) -> list[str]:
    """Return the obstacles to a class in which q, k and v have biases exactly where other matrices have them."""
    if config.has_qkv_bias == config.bias:
        return []
    return [f"qkv_bias ({show(config.has_qkv_bias)}) must be as bias ({show(config.bias)})"]
