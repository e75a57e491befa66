"""Copies of a model that are made for generating or scoring: the same model, its matrices in another form."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from gptcli.models.gpt import GPT
from gptcli.nn.inference import Int8Linear, PackedLinear, least_packed_rows, packs
from gptcli.nn.layers import Linear

Quantization = Literal["int8"]

MakeLinear = Callable[[Tensor, Tensor | None], nn.Module]
"""weight (O, I), bias (O,) or none -> a module that maps (..., I) to (..., O)."""


def for_generation(model: GPT, rows: int) -> GPT:
    """Return the model to generate `rows` samples side by side with: itself, or a copy whose matrices are packed.

    Packed matrices are read faster and differ in rounding only.
    """
    if rows >= least_packed_rows() and packs(model.embedding.weight):
        return with_linears(model, PackedLinear)
    return model


def quantized(model: GPT, kind: Quantization) -> GPT:
    """A copy whose blocks' and head's matrices are in 8 bits; embeddings and norms are the model's own."""
    assert kind == "int8"
    return with_linears(model, Int8Linear)


def with_linears(model: GPT, make: MakeLinear) -> GPT:
    """A copy in which `make` has replaced every matrix of the blocks, and the head; it shares the rest with `model`.

    A tied head becomes a matrix of its own.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, shared)
    for module in list(copied.blocks.modules()):
        for name, child in module.named_children():
            if isinstance(child, Linear):
                setattr(module, name, make(child.weight, child.bias))
    head = copied.embedding.weight if model.config.tie_embeddings else copied.head.weight
    copied.config = model.config.model_copy(update={"tie_embeddings": False})
    copied.head = make(head, None)
    return copied.eval()
