"""Normalisations over the last dimension.

Shapes: N rows, D the width that is normalised over.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gptcli.nn.parameters import BIAS, SCALE, Role


class LayerNorm(nn.LayerNorm):
    """torch's LayerNorm, with the roles of its parameters."""

    roles: ClassVar = {"weight": SCALE, "bias": BIAS}


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich 2019, arXiv:1910.07467).

    Without `has_weight` there is no weight.
    """

    def __init__(self, width: int, eps: float, has_weight: bool = True, role: Role = SCALE) -> None:
        super().__init__()
        self.roles = {"weight": role}
        self.weight = nn.Parameter(torch.ones(width)) if has_weight else None
        self.width, self.eps = width, eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., D); shape and dtype stay."""
        if self.weight is None:
            return F.rms_norm(x, (self.width,), eps=self.eps)
        # Under autocast x may be bf16 and the weight fp32; the fused kernels want one dtype (and sum in fp32 inside).
        weight = self.weight.to(x.dtype)
        if x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return FewPassesRMSNorm.apply(x, weight, self.eps)  # type: ignore[no-any-return, no-untyped-call]  # torch does not annotate apply
        return F.rms_norm(x, weight.shape, weight, self.eps)


class FewPassesRMSNorm(torch.autograd.Function):
    """RMSNorm in about half the time on a CPU, where torch has no kernel for it and differentiates it part by part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Normalise x (..., D)."""
        precise = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=precise)  # (..., 1)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
        ctx.save_for_backward(x, weight, scale)
        y: Tensor = x * scale
        return y.mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """Return the gradients of x and weight."""
        x, weight, scale = ctx.saved_tensors
        products = (gradient * x).reshape(-1, x.shape[-1])  # (N, D)
        by_weight = products.mT @ scale.flatten() if ctx.needs_input_grad[1] else None  # (D,)
        # y = s w x with s = (mean(x^2) + eps)^(-1/2), so dy_j / dx_i = s w_j [i = j] - s^3 w_j x_j x_i / D
        inward = (products @ weight).view_as(scale).mul_(scale.square().mul_(scale)).div_(-x.shape[-1])  # (..., 1)
        return (gradient * weight).mul_(scale).addcmul_(x, inward), by_weight, None
