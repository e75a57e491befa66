"""A batch of sequences to train on. Shapes: B batch, T time (seq_len)."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gptcli.nn.loss import IGNORE_INDEX


class Batch(NamedTuple):
    """Sequences to train on, each tensor (B, T): all int64 but `reference`; targets[t] is the token after t."""

    input_ids: Tensor
    targets: Tensor
    segment_ids: Tensor | None
    """The documents, with pack="document", or the examples, with pack="example": attention is allowed within one number
    only; else None."""
    reference: Tensor | None = None
    """The nats of each target under the model that preferences are measured from, fp32; None for other data."""

    @property
    def model_inputs(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """The arguments of the model's losses."""
        return self.input_ids, self.targets, self.segment_ids

    @classmethod
    def joined(cls, batches: Sequence[Batch]) -> Batch:
        """Return the sequences of several batches, which have the same kinds of tensors."""
        segment_ids = [batch.segment_ids for batch in batches if batch.segment_ids is not None]
        reference = [batch.reference for batch in batches if batch.reference is not None]
        return cls(
            torch.cat([batch.input_ids for batch in batches]),
            torch.cat([batch.targets for batch in batches]),
            torch.cat(segment_ids) if segment_ids else None,
            torch.cat(reference) if reference else None,
        )

    def to(self, device: torch.device) -> Batch:
        """Return a copy on `device`; the host does not wait for a copy from pinned memory."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))

    def pin_memory(self) -> Batch:
        """Return a copy in memory from which a GPU can fetch by itself, without the host waiting."""
        return self.each(Tensor.pin_memory)

    def each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with `function` applied to each of its tensors."""
        segment_ids, reference = (None if one is None else function(one) for one in (self.segment_ids, self.reference))
        return Batch(function(self.input_ids), function(self.targets), segment_ids, reference)

    def ids_read(self) -> Tensor:
        """Return the ids (N,) of a batch of one sequence, without padding: a last segment without targets."""
        ids, targets = self.input_ids[0], self.targets[0]
        if self.segment_ids is None:
            return ids
        is_last = self.segment_ids[0] == self.segment_ids[0, -1]
        is_padding = bool((targets[is_last] == IGNORE_INDEX).all())
        return ids[~is_last] if is_padding else ids

    def split(self, size: int) -> list[Batch]:
        """Return the batch in parts of at most `size` sequences."""
        parts = [slice(start, start + size) for start in range(0, len(self.input_ids), size)]
        return [self.each(operator.itemgetter(part)) for part in parts]
