"""Gradient clipping by global norm. Never waits for the device."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients in place so that their joint L2 norm is at most `max_norm` (infinity: only measure).

    Returns the norm before clipping, an fp32 (fp64 for fp64 gradients) scalar; a NaN or infinity in any gradient shows
    in it. Sums of squares are accumulated in fp32 also where gradients are bf16 or fp16.
    """
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not grads:
        return torch.zeros(())
    precise = torch.float64 if all(grad.dtype == torch.float64 for grad in grads) else torch.float32
    # One device is assumed: a model is on one, and sharded ones have norms of their own to reduce.
    total_norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads, 2, dtype=precise)))
    if math.isfinite(max_norm):
        torch._foreach_mul_(grads, (max_norm / (total_norm + 1e-6)).clamp(max=1.0))
    return total_norm
