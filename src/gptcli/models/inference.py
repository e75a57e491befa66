"""Copies of a model for generating or scoring, with matrices in another form."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal, assert_never

from torch import Tensor, nn

from gptcli.models.adapters import has_adapter
from gptcli.models.gpt import GPT
from gptcli.nn.inference import Int8Linear, PackedLinear, least_packed_rows, packs
from gptcli.nn.layers import Linear

Quantization = Literal["int8"]

MakeLinear = Callable[[Tensor, Tensor | None], nn.Module]
"""A function from weight (O, I) and bias (O,) or None to a module that maps (..., I) to (..., O)."""


def for_generation(model: GPT, rows: int) -> GPT:
    """Return the model to generate `rows` samples side by side with: itself, or a copy whose matrices are packed.

    Packed matrices are read faster and differ in rounding only.
    """
    if has_adapter(model):  # which stands beside matrices that other models share
        return model
    if rows >= least_packed_rows() and packs(model.embedding.weight):
        return with_linears(model, PackedLinear)
    return model


def quantized(model: GPT, kind: Quantization) -> GPT:
    """Return a copy whose blocks' and head's matrices are in 8 bits; it shares embeddings and norms with `model`."""
    match kind:
        case "int8":
            return with_linears(model, Int8Linear)
        case other:
            assert_never(other)


def with_linears(model: GPT, make: MakeLinear) -> GPT:
    """Return a copy in which `make` replaces the head and every matrix of the blocks; it shares the rest with `model`.

    A tied head becomes a matrix of its own.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, shared)
    for module in list(copied.blocks.modules()):
        for name, child in module.named_children():
            if isinstance(child, Linear):
                setattr(module, name, make(child.whole_weight(), child.bias))
    head = (copied.embedding if model.config.tie_embeddings else copied.head).whole_weight()
    copied.config = model.config.model_copy(update={"tie_embeddings": False})
    copied.add_module("head", make(head, None))
    return copied.eval()
