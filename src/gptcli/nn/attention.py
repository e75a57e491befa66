"""Causal self-attention: a fast path, and a plain formula to check it against.

Shapes: B batch, T time, S cached keys,
C n_embd, H n_head, K n_kv_head, D head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcli.nn.dropout import drop
from gptcli.nn.layers import Linear
from gptcli.nn.norm import RMSNorm
from gptcli.nn.parameters import MATRIX, RESIDUAL, SCALE
from gptcli.nn.rope import apply_rotary
from gptcli.nn.state import PLAIN, BlockState
from gptcli.nn.thresholds import MAX_MATMUL_SCORES

AttentionFunction = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]


def attention_reference(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Return softmax(QK^T / sqrt(D)) V by the plain formula (Vaswani et al. 2017, arXiv:1706.03762).

    q (B, H, T, D), k and v (B, K, S, D) -> (B, H, T, D). Query head h reads key head h // (H / K) (Ainslie et al. 2023,
    arXiv:2305.13245). `mask` (1 or B, 1, T, S) is true where a query may look; without a mask attention is plain
    causal, and the queries are in the last T of the S slots. `dropout` is the probability to drop a weight.
    """
    queries_per_key = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(queries_per_key, dim=1)  # (B, H, S, D)
    v = v.repeat_interleave(queries_per_key, dim=1)  # (B, H, S, D)
    if mask is None:
        T, S = q.shape[2], k.shape[2]
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, T, S)
    weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
    return drop(weights, dropout) @ v


def attention_fast(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Compute `attention_reference` with torch's fused kernels; without a mask T must be S or 1."""
    T, S = q.shape[2], k.shape[2]
    is_causal = mask is None and T > 1
    if T > 1 and T * S <= MAX_MATMUL_SCORES and is_bf16_on_cpu(q):
        return attention_by_matmuls(q, k, v, mask, dropout)
    queries_per_key = q.shape[1] // k.shape[1]
    if queries_per_key > 1 and q.is_cuda and (mask is not None or q.dtype == torch.float32):
        # CUDA's flash kernel takes neither masks nor fp32; its memory-efficient kernel takes both, but no groups.
        k, v = (x.repeat_interleave(queries_per_key, dim=1) for x in (k, v))  # (B, H, S, D)
        queries_per_key = 1
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=is_causal, enable_gqa=queries_per_key > 1)


def is_bf16_on_cpu(x: Tensor) -> bool:
    """Return whether x is on the CPU and its matmuls are in bf16, by its dtype or by autocast."""
    if x.device.type != "cpu":
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16 and x.dtype != torch.float64
    return x.dtype == torch.bfloat16


def attention_by_matmuls(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Compute `attention_reference` in bf16, with scores (B, H, T, S) in bf16 too.

    torch's fused kernel for the CPU multiplies small tiles, at a fraction of the rate of a whole matmul.
    """
    with torch.autocast("cpu", enabled=False):  # autocast would raise the scores to fp32
        B, H, T, D = q.shape
        queries_per_key = H // k.shape[1]
        if queries_per_key > 1:
            k, v = (x.repeat_interleave(queries_per_key, dim=1) for x in (k, v))  # (B, H, S, D)
        q, k, v = (x.to(torch.bfloat16).flatten(0, 1) for x in (q, k, v))  # (B*H, T, D), (B*H, S, D) twice
        S = k.shape[1]
        if mask is None:
            bias = q.new_full((T, S), -math.inf).triu(S - T + 1)
        else:
            bias = q.new_zeros(mask.shape).masked_fill_(~mask, -math.inf)
            bias = bias[0, 0] if len(mask) == 1 else bias.expand(B, H, T, S).flatten(0, 1)
        scores = torch.baddbmm(bias, q, k.mT, alpha=1 / math.sqrt(D))  # (B*H, T, S)
        return (drop(scores.softmax(dim=-1), dropout) @ v).view(B, H, T, D)


class Attention(nn.Module):
    """Multi-head, grouped-query (K < H) or multi-query (K = 1) attention, with q, k and v from one matrix.

    `qkv` has (H + 2K) * D rows: the query heads, then the key heads, then the value heads. With `qk_norm_widths`, q and
    k are RMS-normalised before the rotation: over each head for widths D, D (Qwen3), over all for H*D, K*D (OLMo 2).
    """

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        n_kv_head: int,
        head_dim: int,
        *,
        bias: bool = False,
        qkv_bias: bool | None = None,
        qk_norm_widths: tuple[int, int] | None = None,
        qk_norm_eps: float = 1e-6,
        qk_norm_weight: bool = True,
        dropout: float = 0.0,
        weight_dropout: float = 0.0,
        function: AttentionFunction = attention_fast,
    ) -> None:
        super().__init__()
        self.n_head, self.n_kv_head, self.head_dim = n_head, n_kv_head, head_dim
        self.dropout, self.weight_dropout, self.function = dropout, weight_dropout, function
        rows = (("q", n_head * head_dim), ("k", n_kv_head * head_dim), ("v", n_kv_head * head_dim))
        role, has_bias = MATRIX._replace(parts=rows), bias if qkv_bias is None else qkv_bias
        self.qkv = Linear(n_embd, (n_head + 2 * n_kv_head) * head_dim, has_bias, role)
        self.output = Linear(n_head * head_dim, n_embd, bias, RESIDUAL)
        scale = SCALE._replace(per_head=True)
        self.q_norm = RMSNorm(qk_norm_widths[0], qk_norm_eps, qk_norm_weight, scale) if qk_norm_widths else None
        self.k_norm = RMSNorm(qk_norm_widths[1], qk_norm_eps, qk_norm_weight, scale) if qk_norm_widths else None

    def forward(self, x: Tensor, state: BlockState = PLAIN) -> Tensor:
        """Map x (B, T, C) to (B, T, C)."""
        B, T, _ = x.shape
        counts = (self.n_head, self.n_kv_head, self.n_kv_head)
        qkv = self.qkv(x).view(B, T, sum(counts), self.head_dim)  # (B, T, H+2K, D)
        q, k, v = qkv.split(counts, dim=2)  # (B, T, H, D), (B, T, K, D) twice
        if self.q_norm is not None and self.k_norm is not None:
            q, k = normalised(q, self.q_norm), normalised(k, self.k_norm)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T, D), (B, K, T, D) twice
        if state.rotary is not None:
            q, k = apply_rotary(q, state.rotary), apply_rotary(k, state.rotary)
        if state.cache is None:
            heads = self.function(q, k, v, state.mask, self.weight_dropout if self.training else 0.0)  # (B, H, T, D)
        else:
            heads = state.cache.attend(q, k, v, self.function)  # (B, H, T, D)
        y: Tensor = self.output(heads.transpose(1, 2).reshape(B, T, -1))  # (B, T, C)
        return drop(y, self.dropout) if self.training else y


def normalised(x: Tensor, norm: RMSNorm) -> Tensor:
    """Normalise x (B, T, N, D) over each head, or over all heads if the norm is as wide as all."""
    is_over_head = norm.width == x.shape[-1]
    normed: Tensor = norm(x) if is_over_head else norm(x.flatten(2)).view_as(x)  # flattened: (B, T, N*D)
    return normed
