"""One Transformer block, and the modules that a config's slots select. A new norm, MLP or attention is one `case` here.

Shapes: B batch, T time, C n_embd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, assert_never

import torch.nn.functional as F
from torch import Tensor, nn

from gptcli.models.config import ModelConfig
from gptcli.models.rope_scaling import LinearScaling, Llama3Scaling, YarnScaling
from gptcli.nn.attention import Attention, AttentionFunction, attention_fast, attention_reference
from gptcli.nn.mlp import MLP, GatedMLP, gelu_tanh, relu2
from gptcli.nn.norm import LayerNorm, RMSNorm
from gptcli.nn.recompute import Recompute, recomputed
from gptcli.nn.rope import RotaryEmbedding, scale_linear, scale_llama3, scale_yarn, yarn_attention_factor
from gptcli.nn.state import BlockState


def build_norm(config: ModelConfig) -> nn.Module:
    """Return the norm that the config selects."""
    match config.norm:
        case "rmsnorm":
            return RMSNorm(config.n_embd, config.norm_eps, config.norm_weight)
        case "layernorm":
            return LayerNorm(config.n_embd, config.norm_eps, config.norm_weight, bias=config.bias)
        case other:
            assert_never(other)


def build_mlp(config: ModelConfig) -> nn.Module:
    """Return the MLP that the config selects."""
    width, bias, dropout = config.mlp_width, config.bias, config.dropout
    match config.mlp:
        case "swiglu":
            return GatedMLP(config.n_embd, width, bias, F.silu, dropout)
        case "geglu":
            return GatedMLP(config.n_embd, width, bias, F.gelu, dropout)
        case "gelu":
            return MLP(config.n_embd, width, bias, F.gelu, dropout)
        case "gelu_tanh":
            return MLP(config.n_embd, width, bias, gelu_tanh, dropout)
        case "relu2":
            return MLP(config.n_embd, width, bias, relu2, dropout)
        case other:
            assert_never(other)


def build_rotary(config: ModelConfig) -> RotaryEmbedding:
    """Return RoPE's tables, scaled as the config selects."""
    build = partial(RotaryEmbedding, config.rotary_dim, config.rope_theta, config.context_length)
    match config.rope_scaling:
        case None:
            return build()
        case LinearScaling(factor=factor):
            return build(partial(scale_linear, factor=factor))
        case Llama3Scaling() as scaling:
            turns = (scaling.low_freq_factor, scaling.high_freq_factor)
            return build(
                partial(scale_llama3, factor=scaling.factor, length=scaling.original_context_length, turns=turns)
            )
        case YarnScaling() as scaling:
            scale = partial(
                scale_yarn,
                theta=config.rope_theta,
                factor=scaling.factor,
                length=scaling.original_context_length,
                turns=(scaling.beta_slow, scaling.beta_fast),
                truncate=scaling.truncate,
            )
            return build(scale, scaling.attention_factor or yarn_attention_factor(scaling.factor))
        case other:
            assert_never(other)


def attention_function(config: ModelConfig) -> AttentionFunction:
    """Return the attention function that the config selects."""
    match config.attention:
        case "fast":
            return attention_fast
        case "reference":
            return attention_reference
        case other:
            assert_never(other)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); or both from the same x if `parallel_residual`.

    With `norm_place` "after" it is x + norm(attention(x)), then x + norm(mlp(x)).
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.window = config.window(layer)
        self.recompute: Recompute = "none"
        """The intermediate results that the backward pass recomputes."""
        self.compiled: Callable[..., Tensor] | None = None
        """A compiled form of `compute` for training passes; others have too many shapes to be compiled."""
        self.parallel_residual, self.norm_first = config.parallel_residual, config.norm_place == "before"
        self.attention_norm = build_norm(config)
        self.attention = Attention(
            config.n_embd,
            config.n_head,
            config.kv_heads,
            config.head_width,
            bias=config.bias,
            qkv_bias=config.has_qkv_bias,
            qk_norm_widths=config.qk_norm_widths,
            qk_norm_eps=config.norm_eps,
            qk_norm_weight=config.norm_weight,
            dropout=config.dropout,
            weight_dropout=config.attention_drop,
            function=attention_function(config),
        )
        self.mlp_norm = build_norm(config)
        self.mlp = build_mlp(config)

    def forward(self, x: Tensor, state: BlockState) -> Tensor:
        """Map x (B, T, C) to (B, T, C)."""
        if self.training:
            return recomputed(self.compiled or self.compute, self.recompute, x, state)
        return self.compute(x, state)

    def compute(self, x: Tensor, state: BlockState) -> Tensor:
        """Map x (B, T, C) to (B, T, C), keeping every intermediate result."""
        attended = self.attend(x, state)
        if self.parallel_residual:
            return x + attended + self.transform(x)
        x = x + attended
        return x + self.transform(x)

    def attend(self, x: Tensor, state: BlockState) -> Tensor:
        """Return what attention adds to x (B, T, C)."""
        if self.norm_first:
            y: Tensor = self.attention(self.attention_norm(x), state)
        else:
            y = self.attention_norm(self.attention(x, state))
        return y

    def transform(self, x: Tensor) -> Tensor:
        """Return what the MLP adds to x (B, T, C)."""
        y: Tensor = self.mlp(self.mlp_norm(x)) if self.norm_first else self.mlp_norm(self.mlp(x))
        return y


class Blocks(nn.ModuleList):
    """The blocks of a model, in order."""

    if TYPE_CHECKING:  # torch types the modules of a list as any modules

        def __iter__(self) -> Iterator[Block]: ...

        def __getitem__(self, index: int) -> Block: ...  # type: ignore[override]  # no slices
