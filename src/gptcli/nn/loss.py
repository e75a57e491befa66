"""The loss: negative log-likelihood in nats, summed, so that whoever has all the counts can normalise.

Knows nothing of batches or steps. Shapes: B batch, T time, V vocab. Numbers below fp32 are raised to fp32 first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_INDEX = -100
"""A target of this value is not scored."""


def at_least_fp32(logits: Tensor) -> Tensor:
    """bf16 and fp16 become fp32; fp32 and fp64 come back as they are, not copied."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """logits (B, T, V), targets (B, T) -> scalar: the sum of -log softmax(logits)[target] over targets that count."""
    flat = at_least_fp32(logits).flatten(0, -2)  # (B*T, V)
    return F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """logits (B, T, V), targets (B, T) -> (B, T): nats of each target, 0 where it is ignored."""
    flat = at_least_fp32(logits).flatten(0, -2)  # (B*T, V)
    losses = F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORE_INDEX, reduction="none")  # (B*T,)
    return losses.view(targets.shape)
