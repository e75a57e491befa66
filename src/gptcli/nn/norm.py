"""Normalisations over the last dimension. LayerNorm is torch's own; it is here so that a norm has one home."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import LayerNorm

__all__ = ["LayerNorm", "RMSNorm"]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) -> the same shape and dtype."""
        # Under autocast x may be bf16 and the weight fp32; the fused kernels want one dtype (and sum in fp32 inside).
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)
