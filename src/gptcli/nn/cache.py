"""The KV cache: keys and values of the tokens read so far, so that each new token costs one step of attention.

Shapes: B batch, T new tokens, S slots that attention sees, K n_kv_head, D head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gptcli.nn.device import send

Places = Tensor | slice
"""Slots of T new tokens: (B, T), or a slice where all rows have the same slots."""


class LayerCache(NamedTuple):
    """The part of a `KVCacheView` that belongs to one layer."""

    keys: Tensor
    """(B, K, S, D)"""
    values: Tensor
    """(B, K, S, D)"""
    places: Places

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new tokens' k, v (B, K, T, D); return all that attention sees, (B, K, S, D) each."""
        if isinstance(self.places, slice):
            self.keys[:, :, self.places], self.values[:, :, self.places] = k, v
        else:
            rows = torch.arange(k.shape[0], device=k.device)[:, None]  # (B, 1)
            self.keys[rows, :, self.places] = k.transpose(1, 2)  # (B, T, K, D)
            self.values[rows, :, self.places] = v.transpose(1, 2)
        return self.keys, self.values


class KVCacheView(NamedTuple):
    """The slots of a cache for one forward pass, up to the last new token or all, and the places of the new tokens.

    It holds only tensors (and a slice), so a forward pass over it can be compiled or recorded.
    """

    keys: list[Tensor]
    """One (B, K, S, D) a layer."""
    values: list[Tensor]
    ids: Tensor
    """(B, S)"""
    places: Places

    @property
    def slots(self) -> int:
        """Number of slots that attention sees, S."""
        return self.ids.shape[1]

    def layer(self, number: int) -> LayerCache:
        """Return the part of one layer."""
        return LayerCache(self.keys[number], self.values[number], self.places)

    def write_ids(self, input_ids: Tensor) -> Tensor | None:
        """Write the new tokens' ids (B, T), for models in which a token's vector depends on the token before it.

        Returns the ids (B, 1) in the slot before them (without meaning in an empty row), None at the beginning.
        """
        if isinstance(self.places, slice):
            self.ids[:, self.places] = input_ids
            first = self.places.start
            return self.ids[:, first - 1 : first] if first else None
        self.ids.scatter_(1, self.places, input_ids)
        return self.ids.gather(1, (self.places[:, :1] - 1).clamp_min(0))


class KVCache:
    """Memory for `capacity` tokens a row, allocated once. A row's token p is in its slot p.

    Rows may have different lengths. Slots beyond a row's length are never attended to, and the row's later tokens
    overwrite them. So tokens are removed by lowering the length, and rows of different length are read together with
    padding on the right.
    """

    def __init__(
        self,
        n_layer: int,
        batch_size: int,
        capacity: int,
        n_kv_head: int,
        head_dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = (batch_size, n_kv_head, capacity, head_dim)
        # Zeros, since a slot that is masked must still hold a finite number: 0 times NaN would spoil the row.
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(n_layer)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(n_layer)]
        self.ids = torch.zeros(batch_size, capacity, dtype=torch.long, device=device)
        self.capacity = capacity
        self.lengths = [0] * batch_size
        """Tokens that each row holds."""

    @property
    def batch_size(self) -> int:
        """Number of rows, B."""
        return len(self.lengths)

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths)

    def extend(self, count: int, counts: Sequence[int] | None = None, *, static: bool = False) -> KVCacheView:
        """Append `count` tokens to every row, and return the view through which a forward pass writes them.

        Where rows differ, only the first `counts[i]` new tokens of row i are its own; the rest is padding. With
        `static` the shapes stay the same from step to step, as compiled code needs: attention sees every slot, and
        rows are treated as if their lengths differed.

        Raises:
            ValueError: the cache has no room for so many.
        """
        starts, end = self.lengths, self.length + count
        if end > self.capacity:
            raise ValueError(f"the KV cache holds {self.capacity} tokens and was given {end}; make it larger")
        self.lengths = [start + own for start, own in zip(starts, counts or [count] * len(starts), strict=True)]
        places: Places = slice(starts[0], end)
        if static or min(starts) < max(starts):
            device = self.ids.device
            places = send(torch.tensor(starts), device)[:, None] + torch.arange(count, device=device)  # (B, T)
        if static:
            return KVCacheView(self.keys, self.values, self.ids, places)
        keys = [keys[:, :, :end] for keys in self.keys]
        values = [values[:, :, :end] for values in self.values]
        return KVCacheView(keys, values, self.ids[:, :end], places)

    def truncate(self, lengths: Sequence[int]) -> None:
        """Remove the tokens of each row beyond these lengths."""
        self.lengths = [min(pair) for pair in zip(self.lengths, lengths, strict=True)]

    def select(self, rows: Sequence[int]) -> None:
        """Keep only the rows of these numbers, in that order; a number may occur several times."""
        index = torch.tensor(rows, device=self.ids.device)
        self.keys = [keys[index] for keys in self.keys]
        self.values = [values[index] for values in self.values]
        self.ids = self.ids[index]
        self.lengths = [self.lengths[row] for row in rows]
