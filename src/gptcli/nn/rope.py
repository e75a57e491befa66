"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in Hugging Face's half rotation.

Pairs are (x[i], x[i + R/2]), i < R/2, turned by the angle position / theta^(2i/R). R, the rotary dimension, is at most
D: what lies beyond it is left as it is (GPT-NeoX). Knows nothing of attention or caches.
Shapes: B batch, T time, N any number of heads, D head_dim, R rotary dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

Rotary = tuple[Tensor, Tensor]
"""cos and signed sin of the angles, (T, R) or (B, 1, T, R); see `RotaryEmbedding`."""


class RotaryEmbedding(nn.Module):
    """Tables of cos and sin, computed in fp32 for `length` positions and made again when more are asked for.

    Both have R columns: cos twice, and sin first negative, then positive, so that a rotation is
    `x * cos + swap_halves(x) * sin`.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, rotary_dim: int, theta: float, length: int) -> None:
        super().__init__()
        self.rotary_dim, self.theta = rotary_dim, theta
        self.register_buffer("cos", torch.empty(0, rotary_dim), persistent=False)
        self.register_buffer("sin", torch.empty(0, rotary_dim), persistent=False)
        if not self.cos.is_meta:
            self.fill(length, self.cos.device)

    def fill(self, length: int, device: torch.device) -> None:
        """Compute the tables for positions 0 <= p < length."""
        exponents = torch.arange(0, self.rotary_dim, 2, dtype=torch.float32, device=device) / self.rotary_dim  # (R/2,)
        positions = torch.arange(length, dtype=torch.float32, device=device)
        angles = torch.outer(positions, self.theta**-exponents)  # (length, R/2)
        cos, sin = angles.cos(), angles.sin()
        self.cos = torch.cat((cos, cos), dim=-1)  # (length, R)
        self.sin = torch.cat((-sin, sin), dim=-1)  # (length, R)

    def forward(self, end: int, count: int, positions: Tensor | None, device: torch.device) -> Rotary:
        """The tables for the `count` positions before `end`, (count, R), or for `positions` (B, T), (B, 1, T, R).

        No position may reach `end`.
        """
        length = self.cos.shape[0]
        # A model that was moved, cast, or built on the meta device gets its tables anew where and as they are needed.
        if end > length:
            self.fill(max(end, 2 * length), device)
        elif self.cos.device != device or self.cos.dtype != torch.float32:
            self.fill(length, device)
        if positions is None:
            return self.cos[end - count : end], self.sin[end - count : end]
        return self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)  # (B, 1, T, R)


def apply_rotary(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn x (B, N, T, D) by the angles of its positions; computed in at least fp32, returned in x's dtype."""
    cos, sin = rotary
    rotary_dim = cos.shape[-1]
    if rotary_dim < x.shape[-1]:
        turned = apply_rotary(x[..., :rotary_dim], rotary)
        return torch.cat((turned, x[..., rotary_dim:]), dim=-1)  # (B, N, T, D)
    return rotate(x, cos, sin) if torch.compiler.is_compiling() else Rotation.apply(x, cos, sin)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, N, T, R) turned by angles of this cos and signed sin."""
    swapped = torch.roll(x, x.shape[-1] // 2, dims=-1)  # the halves change places
    return torch.addcmul(x * cos, swapped, sin).to(x.dtype)


class Rotation(torch.autograd.Function):
    """`rotate`, whose gradient is turned back by the same angles: fewer passes than its parts' derivatives take."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return rotate(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return rotate(gradient, cos, -sin), None, None
