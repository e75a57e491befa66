"""The global gradient norm, and what to divide gradients by to bring it to a limit. Never waits for the device."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

ROWS_FIRST = 2**16
"""Numbers from which on a matrix on a CPU is reduced row by row: in parallel, not as one fp32 sum over millions."""


@torch.no_grad()
def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Return the joint L2 norm of all gradients, a scalar in fp32 (fp64 for fp64 gradients).

    A NaN or infinity in any gradient makes it NaN or infinite. Sums of squares are accumulated in fp32 even if the
    gradients are bf16 or fp16.
    """
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not grads:
        return torch.zeros(())
    precise = torch.float64 if all(grad.dtype == torch.float64 for grad in grads) else torch.float32
    parts = [torch.linalg.vector_norm(g, dim=-1, dtype=precise) if is_reduced_first(g) else g for g in grads]
    # All gradients are on one device: sharded models reduce their own norms.
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(parts, 2, dtype=precise)))
    return norm


def is_reduced_first(grad: Tensor) -> bool:
    """Return whether the rows of a gradient are reduced first."""
    return grad.is_cpu and grad.dim() > 1 and grad.numel() >= ROWS_FIRST


def clip_divisor(norm: Tensor, max_norm: float) -> Tensor:
    """Return the number, fp32 and at least 1, by which to divide gradients of joint norm `norm` to get `max_norm`."""
    return ((norm + 1e-6) / max_norm).clamp(min=1.0).float()
