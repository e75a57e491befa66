"""The global gradient norm, and what to divide gradients by to bring it to a limit. Never waits for the device."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

ROWS_FIRST = 2**16
"""On a CPU, matrices of so many numbers are reduced row by row: in parallel, and not by one fp32 sum over millions."""


@torch.no_grad()
def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The joint L2 norm of all gradients, an fp32 (fp64 for fp64 gradients) scalar.

    A NaN or infinity in any gradient shows in it. Sums of squares are accumulated in fp32 also where gradients are bf16
    or fp16.
    """
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not grads:
        return torch.zeros(())
    precise = torch.float64 if all(grad.dtype == torch.float64 for grad in grads) else torch.float32
    parts = [torch.linalg.vector_norm(g, dim=-1, dtype=precise) if is_reduced_first(g) else g for g in grads]
    # One device is assumed: a model is on one, and sharded ones have norms of their own to reduce.
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(parts, 2, dtype=precise)))


def is_reduced_first(grad: Tensor) -> bool:
    return grad.is_cpu and grad.dim() > 1 and grad.numel() >= ROWS_FIRST


def clip_divisor(norm: Tensor, max_norm: float) -> Tensor:
    """What to divide gradients of joint norm `norm` by, so that it is at most `max_norm`: fp32, at least 1."""
    return ((norm + 1e-6) / max_norm).clamp(min=1.0).float()
