"""A batch of sequences to train on. Shapes: B batch, T time (seq_len)."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Sequences to train on: input_ids, targets and segment_ids are (B, T) int64; targets[t] is the token after t."""

    input_ids: Tensor
    targets: Tensor
    segment_ids: Tensor | None
    """The documents, with pack="document", or the examples, with pack="example": attention is allowed within one number
    only; else None."""

    def to(self, device: torch.device) -> Batch:
        """Return a copy on `device`; the host does not wait for a copy from pinned memory."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))

    def pin_memory(self) -> Batch:
        """Return a copy in memory from which a GPU can fetch by itself, without the host waiting."""
        return self.each(Tensor.pin_memory)

    def each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with `function` applied to each of its tensors."""
        segment_ids = None if self.segment_ids is None else function(self.segment_ids)
        return Batch(function(self.input_ids), function(self.targets), segment_ids)

    def split(self, size: int) -> list[Batch]:
        """Return the batch in parts of at most `size` sequences."""
        parts = [slice(start, start + size) for start in range(0, len(self.input_ids), size)]
        return [self.each(operator.itemgetter(part)) for part in parts]
