"""Activation checkpointing: a function's intermediate results are recomputed in its backward pass, not kept."""

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
"""Matmuls and attention: nearly all of a block's time, and about half of what it keeps."""


def policy(context: Any, operation: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    """Keep the results that are costly; norms, activations and rotations are cheap to recompute."""
    return CheckpointPolicy.MUST_SAVE if operation in COSTLY else CheckpointPolicy.PREFER_RECOMPUTE


def recomputed(function: Callable[..., Tensor], mode: Recompute, *arguments: Any) -> Tensor:
    """Return `function(*arguments)`, whose backward pass recomputes the intermediate results that `mode` drops."""
    if mode == "none":
        return function(*arguments)
    contexts: dict[str, Any] = {}
    if mode == "selective":
        contexts["context_fn"] = partial(create_selective_checkpoint_contexts, policy)
    result: Tensor = checkpoint(function, *arguments, use_reentrant=False, **contexts)
    return result
