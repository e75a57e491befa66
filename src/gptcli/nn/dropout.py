"""Dropout whose random numbers cost little on a CPU.

On a CPU torch draws one random number for each element, and its compiler takes three times as long for it. This module
draws 64 random bits for four elements. On other devices it uses torch's own dropout.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 2**16
"""The probability is rounded to a multiple of 1 / LEVELS."""


def drop(x: Tensor, p: float) -> Tensor:
    """Set each number of x to 0 with probability p and divide the others by 1 - p (Srivastava et al. 2014)."""
    if not p:
        return x
    if x.device.type != "cpu" or type(x) is not Tensor:
        return F.dropout(x, p)
    # An operator's first call loads torch's compiler, which costs a second where nothing is compiled.
    return x * (compiled_factors if torch.compiler.is_compiling() else factors)(x.detach(), p)


def factors(x: Tensor, p: float) -> Tensor:
    """Draw zeros and 1 / (1 - p), in x's shape and dtype, from torch's generator."""
    dropped = min(round(p * LEVELS), LEVELS - 1)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    levels = words.view(torch.int16)[: x.numel()].view(x.shape)
    return (levels >= dropped - LEVELS // 2).to(x.dtype).mul_(LEVELS / (LEVELS - dropped))


compiled_factors = torch.library.custom_op(
    "gptcli::dropout_factors", factors, mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,)
)


@compiled_factors.register_fake
def _(x: Tensor, p: float) -> Tensor:
    return x.new_empty(x.shape)
