"""The KV cache: keys and values of the tokens read so far, so that each new token costs one step of attention.

Knows nothing of text, prompts or sampling. Shapes: B batch, T new tokens, S slots that attention sees, K n_kv_head,
D head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gptcli.nn.device import send


class KVWindow(NamedTuple):
    """A cache as one reading sees it, all slots and where the new tokens lie: tensors only, as compiled code wants."""

    keys: list[Tensor]
    """One (B, K, S, D) a layer."""
    values: list[Tensor]
    ids: Tensor
    """(B, S)"""
    positions: Tensor
    """(B, T)"""


class KVCache:
    """Memory for `capacity` tokens a row, allocated once. A row's token p lies in its slot p.

    Rows may have different lengths. What lies in a slot beyond a row's length is never attended to and is overwritten
    by the row's later tokens; so a row takes tokens back by counting fewer of them in `lengths`, and rows of different
    length are read together by padding them on the right.

    New tokens are read between two calls: `begin` says where they go, and once every layer has written them they are
    counted, all by `advance` or each row's own number by adding to `lengths`.
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
        self.first, self.slots = 0, 0
        """Between `begin` and the counting: the first new slot of all rows, and the slots that attention sees."""
        self.positions: Tensor | None = None
        """The new tokens' slots (B, T) where rows differ; none where all have those from `first` on."""

    def window(self) -> KVWindow:
        """After `begin` with the capacity for a multiple: what one reading reads and writes."""
        assert self.positions is not None and self.slots == self.capacity
        return KVWindow(self.keys, self.values, self.ids, self.positions)

    @classmethod
    def of(cls, window: KVWindow) -> KVCache:
        """A cache that stands where `window` was taken, for one reading; it knows nothing but these tensors."""
        cache = cls.__new__(cls)
        cache.keys, cache.values, cache.ids, cache.positions = window
        cache.slots = cache.capacity = window.ids.shape[1]
        return cache

    @property
    def batch_size(self) -> int:
        return len(self.lengths)

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths)

    def begin(self, count: int, multiple: int | None = None) -> None:
        """The next `count` tokens of every row follow those that it holds.

        With a `multiple` the shapes stay the same from step to step, as compiled code needs: rows count as if they
        differed, and attention sees a multiple of so many slots (or all).

        Raises:
            ValueError: the cache has no room for so many.
        """
        self.slots = self.length + count
        if self.slots > self.capacity:
            raise ValueError(
                f"the KV cache holds {self.capacity} tokens and was given {self.slots}; make it larger or reset it"
            )
        self.first, self.positions = self.lengths[0], None
        if multiple:
            self.slots = min(-(-self.slots // multiple) * multiple, self.capacity)
        if multiple or min(self.lengths) < self.length:
            device = self.ids.device
            starts = send(torch.tensor(self.lengths), device)
            self.positions = starts[:, None] + torch.arange(count, device=device)  # (B, T)

    def advance(self, count: int) -> None:
        """Count the `count` tokens that every layer has just written for each row."""
        self.lengths = [length + count for length in self.lengths]

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new tokens' k, v (B, K, T, D) of `layer`; what attention sees comes back, (B, K, S, D) each."""
        keys, values = self.keys[layer], self.values[layer]
        if self.positions is None:
            new = slice(self.first, self.first + k.shape[2])
            keys[:, :, new], values[:, :, new] = k, v
        else:
            rows = torch.arange(k.shape[0], device=k.device)[:, None]  # (B, 1)
            keys[rows, :, self.positions] = k.transpose(1, 2)  # (B, T, K, D)
            values[rows, :, self.positions] = v.transpose(1, 2)
        return keys[:, :, : self.slots], values[:, :, : self.slots]

    def write_ids(self, input_ids: Tensor) -> Tensor | None:
        """Write the new tokens' ids (B, T), for models that look at a token's left neighbour.

        Returns the ids (B, 1) in the slot before them (of no meaning in an empty row), none at the beginning.
        """
        if self.positions is None:
            self.ids[:, self.first : self.first + input_ids.shape[1]] = input_ids
            return self.ids[:, self.first - 1 : self.first] if self.first else None
        self.ids.scatter_(1, self.positions, input_ids)
        return self.ids.gather(1, (self.positions[:, :1] - 1).clamp_min(0))

    def select(self, rows: Sequence[int]) -> None:
        """Keep only the rows of these numbers, in that order; a row may be taken several times."""
        index = torch.tensor(rows, device=self.ids.device)
        self.keys = [keys[index] for keys in self.keys]
        self.values = [values[index] for values in self.values]
        self.ids = self.ids[index]
        self.lengths = [self.lengths[row] for row in rows]

    def reset(self) -> None:
        """Forget every token; the memory is kept."""
        self.lengths = [0] * self.batch_size
