"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in Hugging Face's half rotation.

Pairs are (x[i], x[i + R/2]), i < R/2, turned by the angle position / theta^(2i/R). The rotary dimension R is at most D;
the dimensions beyond it stay unchanged (GPT-NeoX).
Shapes: B batch, T time, N any number of heads, D head_dim, R rotary dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gptcli.nn.thresholds import FIRST_TABLE

Rotary = tuple[Tensor, Tensor]
"""The cos and signed sin of the angles, (T, R) or (B, 1, T, R); see `RotaryEmbedding`."""
Scale = Callable[[Tensor], Tensor]
"""A function from frequencies (R/2,), in radians a position, to those that fit a longer context."""


class RotaryEmbedding(nn.Module):
    """Tables of cos and sin in fp32, which grow with the positions that are used.

    A model may claim any context, so `length`, its context, only bounds how many positions are computed ahead of use:
    at first those that fit into `FIRST_TABLE` numbers, then at least twice as many whenever they do not suffice.

    Both tables have R columns: cos twice, and sin first negative, then positive, so that a rotation is
    `x * cos + swap_halves(x) * sin`. Both tables are multiplied by `attention_factor` (YaRN).
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self, rotary_dim: int, theta: float, length: int, scale: Scale | None = None, attention_factor: float = 1.0
    ) -> None:
        super().__init__()
        self.rotary_dim, self.theta, self.length = rotary_dim, theta, length
        self.scale, self.attention_factor = scale, attention_factor
        self.register_buffer("cos", torch.empty(0, rotary_dim), persistent=False)
        self.register_buffer("sin", torch.empty(0, rotary_dim), persistent=False)

    def reserve(self, length: int, device: torch.device) -> None:
        """Make the tables long enough for positions 0 <= p < length, on `device` and in fp32.

        A compiled or recorded step cannot grow them, so call this before it is made.
        """
        known = self.cos.shape[0]
        if length > known:
            ahead = min(self.length, max(2 * known, FIRST_TABLE // self.rotary_dim))
            self.fill(max(length, ahead), device)
        elif self.cos.device != device or self.cos.dtype != torch.float32:
            self.fill(known, device)  # the model was moved, cast, or built on the meta device

    def fill(self, length: int, device: torch.device) -> None:
        """Compute the tables for positions 0 <= p < length."""
        exponents = torch.arange(0, self.rotary_dim, 2, dtype=torch.float32, device=device) / self.rotary_dim  # (R/2,)
        frequencies = self.theta**-exponents  # (R/2,)
        frequencies = self.scale(frequencies) if self.scale else frequencies
        positions = torch.arange(length, dtype=torch.float32, device=device)
        angles = torch.outer(positions, frequencies)  # (length, R/2)
        cos, sin = angles.cos() * self.attention_factor, angles.sin() * self.attention_factor
        self.cos = torch.cat((cos, cos), dim=-1)  # (length, R)
        self.sin = torch.cat((-sin, sin), dim=-1)  # (length, R)

    def forward(self, places: Tensor | slice, end: int, device: torch.device) -> Rotary:
        """Return the tables for a slice of T positions, (T, R), or for positions (B, T), (B, 1, T, R), all below
        `end`.
        """
        self.reserve(end, device)
        cos, sin = self.cos[places], self.sin[places]
        return (cos, sin) if isinstance(places, slice) else (cos.unsqueeze(1), sin.unsqueeze(1))  # (B, 1, T, R)


def scale_linear(frequencies: Tensor, factor: float) -> Tensor:
    """Divide frequencies (R/2,) by `factor`: position interpolation (Chen et al. 2023, arXiv:2306.15595)."""
    return frequencies / factor


def scale_llama3(frequencies: Tensor, factor: float, length: int, turns: tuple[float, float]) -> Tensor:
    """Scale frequencies (R/2,) as Llama 3.1 does (Grattafiori et al. 2024, arXiv:2407.21783; as in transformers).

    A pair that makes fewer than `turns[0]` turns in `length` positions is slowed down by `factor`, and one that makes
    more than `turns[1]` keeps its frequency; between them the kept share rises with the turns.
    """
    low, high = turns
    made = length * frequencies / (2 * math.pi)  # (R/2,)
    kept = ((made - low) / (high - low)).clamp(0, 1)
    return kept * frequencies + (1 - kept) * frequencies / factor


def scale_yarn(
    frequencies: Tensor, theta: float, factor: float, length: int, turns: tuple[float, float], truncate: bool
) -> Tensor:
    """Scale frequencies (R/2,) by YaRN's NTK-by-parts (Peng et al. 2023, arXiv:2309.00071, section 3.2).

    This is `scale_llama3`, except that the kept share falls linearly with the pair's number, from the pair that makes
    `turns[1]` turns to the one that makes `turns[0]`; `truncate` rounds the two outwards. As in transformers.
    """
    pairs = len(frequencies)

    def pair_that_makes(count: float) -> float:
        """Solve count = length / (2 pi theta^(i / pairs)), the turns of pair i, for i."""
        return pairs * math.log(length / (2 * math.pi * count)) / math.log(theta)

    slow, fast = turns
    first, last = pair_that_makes(fast), pair_that_makes(slow)
    if truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    last = last + 0.001 if first == last else last
    number = torch.arange(pairs, dtype=torch.float32, device=frequencies.device)
    kept = 1 - ((number - first) / (last - first)).clamp(0, 1)  # (R/2,)
    return kept * frequencies + (1 - kept) * frequencies / factor


def yarn_attention_factor(factor: float) -> float:
    """Return sqrt(1/t) of YaRN's equation 15; q and k are each multiplied by it, so their products gain its square."""
    return 0.1 * math.log(factor) + 1


def apply_rotary(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotate x (B, N, T, D) by the angles of its positions, in at least fp32; the result has x's dtype."""
    cos, sin = rotary
    rotary_dim = cos.shape[-1]
    if rotary_dim < x.shape[-1]:
        return torch.cat((apply_rotary(x[..., :rotary_dim], rotary), x[..., rotary_dim:]), dim=-1)  # (B, N, T, D)
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return rotate(x, cos, sin)
    return Rotation.apply(x, cos, sin)  # type: ignore[no-any-return, no-untyped-call]  # torch does not annotate apply


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x (B, N, T, R) by the angles with this cos and signed sin."""
    swapped = torch.roll(x, x.shape[-1] // 2, dims=-1)  # the two halves swapped
    return torch.addcmul(x * cos, swapped, sin).to(x.dtype)


class Rotation(torch.autograd.Function):
    """`rotate`, whose gradient is rotated back by the same angles: fewer passes than autograd's own derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate x (B, N, T, R)."""
        ctx.save_for_backward(cos, sin)
        return rotate(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of x, rotated back."""
        cos, sin = ctx.saved_tensors
        return rotate(gradient, cos, -sin), None, None
