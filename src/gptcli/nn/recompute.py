"""Activation checkpointing: what a block computes is computed again in its backward pass instead of being kept.

Knows nothing of what a block is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from gptcli.nn import matmul

Recompute = Literal["none", "full", "selective"]

aten = torch.ops.aten
COSTLY = frozenset(
    (
        aten.mm.default,
        aten.bmm.default,
        aten.addmm.default,
        aten.baddbmm.default,
        aten._scaled_mm.default,
        *matmul.OPERATORS,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
    )
)
"""Matrix products and attention: nearly all of a block's time, and about half of what it keeps."""


def policy(context: Any, operation: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    """Keep what costs time; norms, activations and rotations are soon made again."""
    return CheckpointPolicy.MUST_SAVE if operation in COSTLY else CheckpointPolicy.PREFER_RECOMPUTE


def recomputed(function: Callable[..., Tensor], mode: Recompute, *arguments: Any) -> Tensor:
    """`function(*arguments)`, of which the backward pass finds again what it needs as `mode` says."""
    if mode == "none":
        return function(*arguments)
    contexts = {"context_fn": partial(create_selective_checkpoint_contexts, policy)} if mode == "selective" else {}
    return checkpoint(function, *arguments, use_reentrant=False, **contexts)
