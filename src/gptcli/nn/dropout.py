"""Dropout whose random numbers cost little on a CPU.

torch draws one number of its own for each that may be dropped there, and its compiler spends three times as long on one
as torch does. Here 64 random bits decide about four of them. Elsewhere than on a CPU torch's own is used.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 2**16
"""Of the probability: it is rounded to a multiple of 1 / LEVELS."""


def drop(x: Tensor, p: float) -> Tensor:
    """x, with every number 0 with probability p, and what is left divided by 1 - p (Srivastava et al. 2014)."""
    if not p:
        return x
    if x.device.type != "cpu" or type(x) is not Tensor:
        return F.dropout(x, p)
    # An operator's first call loads torch's compiler, which takes a second where nothing is compiled.
    return x * (compiled_factors if torch.compiler.is_compiling() else factors)(x.detach(), p)


def factors(x: Tensor, p: float) -> Tensor:
    """Zeros and 1 / (1 - p), in x's shape and dtype, from torch's generator."""
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
