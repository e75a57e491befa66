"""One Transformer block: the config's slots become modules. A new norm, MLP or attention is one `case` here.

Shapes: B batch, T time, C n_embd.
"""

from __future__ import annotations

from typing import assert_never

import torch.nn.functional as F
from torch import Tensor, nn

from gptcli.models.config import ModelConfig
from gptcli.nn.attention import Attention, AttentionFunction, attention_fast, attention_reference
from gptcli.nn.cache import KVCache
from gptcli.nn.mlp import MLP, GatedMLP, gelu_tanh, relu2
from gptcli.nn.norm import LayerNorm, RMSNorm
from gptcli.nn.rope import Rotary


def build_norm(config: ModelConfig) -> nn.Module:
    match config.norm:
        case "rmsnorm":
            return RMSNorm(config.n_embd, config.norm_eps)
        case "layernorm":
            return LayerNorm(config.n_embd, config.norm_eps, bias=config.bias)
        case other:
            assert_never(other)


def build_mlp(config: ModelConfig) -> nn.Module:
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


def attention_function(config: ModelConfig) -> AttentionFunction:
    match config.attention:
        case "fast":
            return attention_fast
        case "reference":
            return attention_reference
        case other:
            assert_never(other)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); or both from the same x if `parallel_residual`."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.window = layer, config.window(layer)
        self.parallel_residual = config.parallel_residual
        self.attention_norm = build_norm(config)
        self.attention = Attention(
            config.n_embd,
            config.n_head,
            config.kv_heads,
            config.head_width,
            bias=config.bias,
            qk_norm_eps=config.norm_eps if config.qk_norm else None,
            dropout=config.dropout,
            weight_dropout=config.attention_drop,
            function=attention_function(config),
        )
        self.mlp_norm = build_norm(config)
        self.mlp = build_mlp(config)

    def forward(self, x: Tensor, rotary: Rotary | None, mask: Tensor | None, cache: KVCache | None = None) -> Tensor:
        """x (B, T, C) -> (B, T, C)"""
        attended = self.attention(self.attention_norm(x), rotary, mask, cache, self.layer)
        if self.parallel_residual:
            return x + attended + self.mlp(self.mlp_norm(x))
        x = x + attended
        return x + self.mlp(self.mlp_norm(x))
