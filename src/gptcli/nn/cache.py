"""The KV cache: keys and values of the tokens read so far, so that each new token costs one step of attention.

A cache has slots, each of which is memory for one sequence. A sequence's token p is in place p of its slot.
Shapes: R slots, B rows of a batch, T new tokens of a row, S places that attention sees, K n_kv_head, D head_dim.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gptcli.nn.device import send

Places = Tensor | slice
"""Places of T new tokens: (B, T), or a slice where all rows have the same."""
AttentionOf = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]
"""A function from q (B, H, T, D), k and v (B, K, S, D), a mask (1 or B, 1, T, S) and dropout to (B, H, T, D)."""

PART_BYTES = 2**19
"""Bytes of keys and values that a layer reads in the time that a further call of attention takes (measured on a CPU):
rows are read together where that reads fewer bytes in vain."""
LARGEST_PART = 64
"""Most rows of a part, so that finding the parts of many rows takes no time to speak of."""
ALL_ROWS = slice(None)
"""The rows of a view's only part."""
LEAST_MAPPED = 2**24
"""Bytes from which on a cache on the CPU takes memory as it fills, not at once."""


class LayerPart(NamedTuple):
    """The part of a `CachePart` that belongs to one layer, with the mask of this layer's window."""

    rows: slice
    keys: Tensor
    """(B, K, S, D)"""
    values: Tensor
    places: Places
    mask: Tensor | None
    is_chunk: bool

    def attend(self, q: Tensor, k: Tensor, v: Tensor, attention: AttentionOf) -> Tensor:
        """Write the new tokens' k, v (B, K, T, D); return the attention (B, H, T, D) of their q (B, H, T, D)."""
        if self.is_chunk:
            q, k, v = (x.transpose(0, 2) for x in (q, k, v))  # (1, H, B, D), (1, K, B, D) twice
            return attention(q, *self.update(k, v), self.mask, 0.0).transpose(0, 2)
        return attention(q, *self.update(k, v), self.mask, 0.0)

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new tokens' k, v (B, K, T, D); return all that attention sees, (B, K, S, D) each."""
        if isinstance(self.places, slice):
            self.keys[:, :, self.places], self.values[:, :, self.places] = k, v
        else:
            rows = torch.arange(k.shape[0], device=k.device)[:, None]  # (B, 1)
            self.keys[rows, :, self.places] = k.transpose(1, 2)  # (B, T, K, D)
            self.values[rows, :, self.places] = v.transpose(1, 2)
        return self.keys, self.values


class LayerParts(NamedTuple):
    """Several parts of one layer, which attention reads one after another."""

    parts: tuple[LayerPart, ...]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, attention: AttentionOf) -> Tensor:
        """Write the new tokens' k, v (B, K, T, D); return the attention (B, H, T, D) of their q (B, H, T, D)."""
        return torch.cat([part.attend(q[part.rows], k[part.rows], v[part.rows], attention) for part in self.parts])


LayerCache = LayerPart | LayerParts
"""What one layer's attention extends and reads."""


class CachePart(NamedTuple):
    """Consecutive slots that attention reads together, up to the last new token of the longest."""

    rows: slice
    """The rows of the batch that these slots belong to."""
    keys: list[Tensor]
    """One (B, K, S, D) a layer."""
    values: list[Tensor]
    ids: Tensor
    """(B, S)"""
    places: Places
    is_chunk: bool = False
    """Whether the rows are consecutive tokens of one slot, at the places of a slice."""

    @property
    def seen(self) -> int:
        """Number of places that attention sees, S."""
        return self.ids.shape[1]

    def layer(self, number: int, mask: Tensor | None) -> LayerPart:
        """Return the part of one layer."""
        return LayerPart(self.rows, self.keys[number], self.values[number], self.places, mask, self.is_chunk)

    def write_ids(self, input_ids: Tensor) -> Tensor:
        """Write the new tokens' ids (B, T); return those in the place before them, (B, 1)."""
        if isinstance(self.places, slice) and self.is_chunk:
            self.ids[:, self.places] = input_ids.T
            before = torch.arange(self.places.start - 1, self.places.stop - 1, device=self.ids.device).clamp_min(0)
            return self.ids[0, before, None]
        if isinstance(self.places, slice):
            self.ids[:, self.places] = input_ids
            first = max(self.places.start, 1)
            return self.ids[:, first - 1 : first]
        self.ids.scatter_(1, self.places, input_ids)
        return self.ids.gather(1, (self.places[:, :1] - 1).clamp_min(0))


class KVCacheView(NamedTuple):
    """The slots of a cache for one forward pass, up to the last new token or all, and the places of the new tokens.

    It holds only tensors (and slices), so a forward pass over it can be compiled or recorded.
    """

    parts: tuple[CachePart, ...]
    places: Places
    """Of all rows."""

    @property
    def end(self) -> int:
        """A number above all places that attention sees."""
        return max(part.seen for part in self.parts)

    def layer(self, number: int, masks: Sequence[Tensor | None]) -> LayerCache:
        """Return the part of one layer, whose attention has these masks, one for each of `parts`."""
        if len(self.parts) == 1:
            return self.parts[0].layer(number, masks[0])
        return LayerParts(tuple([part.layer(number, mask) for part, mask in zip(self.parts, masks, strict=True)]))

    def with_places(self, places: Tensor) -> KVCacheView:
        """Return the view with the new tokens in other places; it has one part."""
        return KVCacheView((self.parts[0]._replace(places=places),), places)

    def write_ids(self, input_ids: Tensor) -> Tensor | None:
        """Write the new tokens' ids (B, T), for models in which a token's vector depends on the token before it.

        Returns the ids (B, 1) in the place before them (without meaning in an empty row), None if all rows are empty.
        """
        before = [part.write_ids(input_ids[part.rows]) for part in self.parts]
        if isinstance(self.places, slice) and not self.places.start:
            return None
        return before[0] if len(before) == 1 else torch.cat(before)


class KVCache:
    """Memory for `capacity` tokens in each of `slots` slots, allocated once.

    Slots may hold different numbers of tokens. Places beyond a slot's length are never attended to, and the slot's
    later tokens overwrite them. So tokens are removed by lowering the length, and rows of different length are read
    together with padding on the right.
    """

    def __init__(
        self,
        n_layer: int,
        slots: int,
        capacity: int,
        n_kv_head: int,
        head_dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = (slots, n_kv_head, capacity, head_dim)
        # Zeros, since a place that is masked must still hold a finite number: 0 times NaN would spoil the row.
        self.keys = [zeros(shape, device, dtype) for _ in range(n_layer)]
        self.values = [zeros(shape, device, dtype) for _ in range(n_layer)]
        self.ids = torch.zeros(slots, capacity, dtype=torch.long, device=device)
        self.capacity = capacity
        self.lengths = [0] * slots
        """Tokens that each slot holds."""
        token_bytes = 2 * n_kv_head * head_dim * self.keys[0].element_size() if n_layer else 1
        self.part_places = PART_BYTES // token_bytes + 1
        """Places of one layer that are read in the time of a further call of attention."""
        self.last_parts: tuple[tuple[list[int], list[int]], list[slice]] = (([], []), [])
        """The last slots with their lengths beyond the first one's, and their parts."""

    @property
    def slots(self) -> int:
        """Number of slots, R."""
        return len(self.lengths)

    @property
    def length(self) -> int:
        """Tokens of the longest slot."""
        return max(self.lengths)

    def extend(
        self,
        count: int,
        counts: Sequence[int] | None = None,
        *,
        slots: Sequence[int] | None = None,
        static_end: int | None = None,
    ) -> KVCacheView:
        """Append `count` tokens to the given slots, or to all, each of which is a row of the batch; return the view
        through which a forward pass writes them.

        Where rows differ, only the first `counts[i]` new tokens of row i are its own; the rest is padding. With
        `static_end` the shapes stay the same from step to step, as compiled code needs: the slots are the first ones,
        attention sees so many places of each, and rows are treated as if their lengths differed.

        Raises:
            ValueError: a slot has no place for so many.
        """
        slots = range(len(self.lengths)) if slots is None else slots
        starts = [self.lengths[slot] for slot in slots]
        if max(starts) + count > self.capacity:
            raise ValueError(
                f"the KV cache holds {self.capacity} tokens and was given {max(starts) + count}; make it larger"
            )
        self.lengths = list(self.lengths)
        for slot, start, own in zip(slots, starts, counts or [count] * len(starts), strict=True):
            self.lengths[slot] = start + own
        if static_end is not None:
            places = self.places_from(starts, count)
            return KVCacheView((self.part(ALL_ROWS, range(len(starts)), places, static_end),), places)
        parts = self.parts(slots, starts)
        if len(parts) == 1 and min(starts) == max(starts):
            same = slice(starts[0], starts[0] + count)
            return KVCacheView((self.part(ALL_ROWS, slots, same, same.stop),), same)
        places = self.places_from(starts, count)
        found = []
        for rows in parts:
            longest, shortest = max(starts[rows]), min(starts[rows])
            here = slice(longest, longest + count) if shortest == longest else places[rows]
            found.append(self.part(rows, slots[rows], here, longest + count))
        return KVCacheView(tuple(found), places)

    def extend_with_chunks(self, rows: int, chunks: Sequence[tuple[int, int]]) -> KVCacheView:
        """Append one token to each of the first `rows` slots, and `count` tokens to others, (slot, count) in `chunks`.

        Every token is a row of the batch, those of a chunk one after another, so that one pass reads all.

        Raises:
            ValueError: a slot has no place for so many.
        """
        places = [self.places_from(self.lengths[:rows], 1)]
        decoding, first = self.extend(1, slots=range(rows)), rows
        parts = [part._replace(rows=slice(*part.rows.indices(rows)[:2])) for part in decoding.parts]
        for slot, count in chunks:
            start = self.lengths[slot]
            self.extend(count, slots=[slot])
            part = self.part(slice(first, first + count), [slot], slice(start, start + count), start + count)
            parts.append(part._replace(is_chunk=True))
            places.append(torch.arange(start, start + count, device=self.ids.device)[:, None])
            first += count
        return KVCacheView(tuple(parts), torch.cat(places))

    def places_from(self, starts: Sequence[int], count: int) -> Tensor:
        """Return the places (B, T) of `count` tokens from `starts` on."""
        device = self.ids.device
        return send(torch.tensor(starts), device)[:, None] + torch.arange(count, device=device)

    def part(self, rows: slice, slots: Sequence[int], places: Places, end: int) -> CachePart:
        """Return the consecutive slots that belong to the rows, up to the place `end`."""
        part = slice(slots[0], slots[-1] + 1)
        keys = [keys[part, :, :end] for keys in self.keys]
        values = [values[part, :, :end] for values in self.values]
        return CachePart(rows, keys, values, self.ids[part, :end], places)

    def parts(self, slots: Sequence[int], starts: list[int]) -> list[slice]:
        """Return the rows in groups of consecutive slots, those that attention reads together in the least time."""
        key = (list(slots), [start - starts[0] for start in starts])
        if key != self.last_parts[0]:
            self.last_parts = (key, best_parts(*key, self.part_places))
        return self.last_parts[1]

    def truncate(self, lengths: Sequence[int]) -> None:
        """Remove the tokens of each slot, from the first on, beyond these lengths."""
        for slot, length in enumerate(lengths):
            self.lengths[slot] = min(self.lengths[slot], length)

    def select(self, slots: Sequence[int]) -> None:
        """Keep only the slots of these numbers, in that order; a number may occur several times."""
        index = torch.tensor(slots, device=self.ids.device)
        self.keys = [keys[index] for keys in self.keys]
        self.values = [values[index] for values in self.values]
        self.ids = self.ids[index]
        self.lengths = [self.lengths[slot] for slot in slots]

    def copy(self, source: int, target: int, length: int) -> None:
        """Make the first `length` tokens of slot `source` the content of slot `target`."""
        self.lengths[target] = length
        if not length:
            return
        for memory in (*self.keys, *self.values):
            memory[target, :, :length] = memory[source, :, :length]
        self.ids[target, :length] = self.ids[source, :length]

    def swap(self, one: int, other: int) -> None:
        """Exchange the contents of two slots."""
        lengths = self.lengths[one], self.lengths[other]
        if not lengths[0] or not lengths[1]:
            source, target = (one, other) if lengths[0] else (other, one)
            self.copy(source, target, max(lengths))
            self.lengths[source] = 0
            return
        for memory in (*self.keys, *self.values):
            kept = memory[one, :, : lengths[0]].clone()
            memory[one, :, : lengths[1]] = memory[other, :, : lengths[1]]
            memory[other, :, : lengths[0]] = kept
        ids = self.ids[one].clone()
        self.ids[one] = self.ids[other]
        self.ids[other] = ids
        self.lengths[other], self.lengths[one] = lengths

    def clear(self, slot: int) -> None:
        """Empty a slot whose numbers may not be finite, and write zeros over them."""
        for memory in (*self.keys, *self.values):
            memory[slot].zero_()
        self.lengths[slot] = 0


def best_parts(slots: Sequence[int], lengths: Sequence[int], part_places: int) -> list[slice]:
    """Return the rows in groups of consecutive slots for which it takes least time to read all: every group is read as
    far as its longest row, and costs as much as `part_places` places.
    """
    count = len(slots)
    if max(lengths) == min(lengths) and list(slots) == list(range(slots[0], slots[0] + count)):
        return [slice(0, count)]
    base = min(lengths)
    best: list[tuple[int, int]] = [(0, 0)]  # for each number of rows: their cost, and where the last group begins
    for stop in range(1, count + 1):
        longest, found = 0, (0, -1)
        for first in range(stop - 1, max(-1, stop - 1 - LARGEST_PART), -1):
            if first < stop - 1 and slots[first] + 1 != slots[first + 1]:
                break
            longest = max(longest, lengths[first] - base)
            cost = best[first][0] + part_places + longest * (stop - first)
            if found[1] < 0 or cost < found[0]:
                found = (cost, first)
        best.append(found)
    parts = []
    while count:
        parts.append(slice(best[count][1], count))
        count = best[count][1]
    return parts[::-1]


def zeros(shape: tuple[int, ...], device: torch.device | str | None, dtype: torch.dtype | None) -> Tensor:
    """Return zeros; on a CPU, large ones take memory only where they are written."""
    dtype = dtype or torch.get_default_dtype()
    numbers = 1
    for size in shape:
        numbers *= size
    if torch.device(device or "cpu").type != "cpu" or numbers * dtype.itemsize < LEAST_MAPPED:
        return torch.zeros(shape, device=device, dtype=dtype)
    memory = mmap.mmap(-1, numbers * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
