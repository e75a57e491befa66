"""Weights in pieces on several ranks: cutting them, gathering them, and moving whole ones to the ranks that own them.

A cut divides one dimension among the ranks of a group as `torch.chunk` does: equal pieces, the last ones smaller or
empty. A weight may be cut twice: for tensor parallelism, and each rank's piece once more for sharding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cut:
    """One dimension, divided among `ranks` ranks of the process group `group`, of which this is number `rank`."""

    dim: int
    ranks: int
    rank: int
    group: Any

    def extents(self, length: int) -> list[int]:
        """Return the extent that each rank has of a dimension of this length."""
        piece = -(-length // self.ranks)
        return [max(0, min(piece, length - rank * piece)) for rank in range(self.ranks)]

    def take(self, whole: Tensor) -> Tensor:
        """Return this rank's piece, a view."""
        extents = self.extents(whole.shape[self.dim])
        return whole.narrow(self.dim, sum(extents[: self.rank]), extents[self.rank])


@dataclass(frozen=True)
class Sharding:
    """The cuts of a weight of this whole shape, the outer one first; `copies` ranks hold the same piece."""

    shape: torch.Size
    cuts: tuple[Cut, ...]
    copies: int = 1

    def take(self, whole: Tensor) -> Tensor:
        """Return this rank's piece of the whole weight, a view."""
        for cut in self.cuts:
            whole = cut.take(whole)
        return whole

    def shapes(self) -> list[torch.Size]:
        """Return the shape before each cut as this rank has it, then the shape of its piece."""
        shapes = [self.shape]
        for cut in self.cuts:
            extent = cut.extents(shapes[-1][cut.dim])[cut.rank]
            shapes.append(torch.Size((*shapes[-1][: cut.dim], extent, *shapes[-1][cut.dim + 1 :])))
        return shapes

    def offsets(self) -> tuple[int, ...]:
        """Return where in the whole weight this rank's piece begins."""
        offsets = [0] * len(self.shape)
        for cut, shape in zip(self.cuts, self.shapes(), strict=False):
            offsets[cut.dim] += sum(cut.extents(shape[cut.dim])[: cut.rank])
        return tuple(offsets)

    def gather(self, piece: Tensor) -> Tensor:
        """Return the whole weight on every rank; all ranks must call this."""
        for cut, shape in reversed(list(zip(self.cuts, self.shapes(), strict=False))):
            piece = gathered(piece, cut, shape)
        return piece


def gathered(piece: Tensor, cut: Cut, shape: torch.Size) -> Tensor:
    """Return the tensor of `shape` of which every rank of the cut has a piece.

    Pieces are sent as rows, padded to one length.
    """
    extents = cut.extents(shape[cut.dim])
    rows = piece.new_zeros((extents[0], *(size for dim, size in enumerate(shape) if dim != cut.dim)))
    rows[: piece.shape[cut.dim]] = piece.movedim(cut.dim, 0)
    parts = [torch.empty_like(rows) for _ in range(cut.ranks)]
    torch.distributed.all_gather(parts, rows, group=cut.group)
    whole = torch.cat([part[:extent] for part, extent in zip(parts, extents, strict=True)])
    return whole.movedim(0, cut.dim).contiguous()


def to_owners(pieces: Sequence[Tensor], sharding: Sharding) -> list[Tensor]:
    """Exchange pieces of weights of one sharding for the whole weights that this rank owns.

    Each weight has one owner (in each of the `copies` sets of ranks), and no rank sends or receives more than needed.
    """
    for cut, shape in reversed(list(zip(sharding.cuts, sharding.shapes(), strict=False))):
        pieces = exchanged(pieces, cut, shape)
    return list(pieces)


def from_owners(owned: Sequence[Tensor], sharding: Sharding, pieces: Sequence[Tensor]) -> list[Tensor]:
    """Exchange the weights that this rank owns for its pieces of all weights, as large as `pieces`.

    This is the inverse of `to_owners`.
    """
    counts = [len(pieces)]
    for cut in reversed(sharding.cuts):
        counts.append(owned_by(counts[-1], cut.ranks)[cut.rank])
    empty = pieces[0].new_empty(0)
    for cut, shape, count in zip(sharding.cuts, sharding.shapes(), reversed(counts[:-1]), strict=False):
        owned = returned(owned, cut, shape, count, empty)
    return list(owned)


def owned_by(count: int, ranks: int) -> list[int]:
    """Return how many of `count` weights each rank owns: adjacent ones, the first ranks one more."""
    return [count // ranks + (rank < count % ranks) for rank in range(ranks)]


def exchanged(pieces: Sequence[Tensor], cut: Cut, shape: torch.Size) -> list[Tensor]:
    """Exchange along one cut: this rank's pieces of all weights -> the weights that it owns, each of `shape`."""
    if not pieces:  # then no rank of this cut has any
        return []
    owned, extents = owned_by(len(pieces), cut.ranks), cut.extents(shape[cut.dim])
    row = shape.numel() // shape[cut.dim]
    sent = torch.cat([piece.movedim(cut.dim, 0).reshape(-1) for piece in pieces])
    mine = owned[cut.rank]
    sent_sizes = [many * extents[cut.rank] * row for many in owned]
    received_sizes = [mine * extent * row for extent in extents]
    received = all_to_all(sent, sent_sizes, received_sizes, cut)
    rest = [size for dim, size in enumerate(shape) if dim != cut.dim]
    parts = [
        part.view(mine, extent, *rest) for part, extent in zip(received.split(received_sizes), extents, strict=True)
    ]
    return list(torch.cat(parts, dim=1).movedim(1, cut.dim + 1).unbind()) if mine else []


def returned(owned: Sequence[Tensor], cut: Cut, shape: torch.Size, count: int, empty: Tensor) -> list[Tensor]:
    """Exchange along one cut: the weights that this rank owns, each of `shape` -> its pieces of all `count`.

    `empty` is sent where it owns none.
    """
    if not count:
        return []
    many, extents = owned_by(count, cut.ranks), cut.extents(shape[cut.dim])
    row, extent = shape.numel() // shape[cut.dim], extents[cut.rank]
    rows = [weight.movedim(cut.dim, 0).split(extents) for weight in owned]
    sent = [part[rank].reshape(-1) for rank in range(cut.ranks) for part in rows]
    sent_sizes = [len(owned) * size * row for size in extents]
    received = all_to_all(torch.cat([empty, *sent]), sent_sizes, [number * extent * row for number in many], cut)
    rest = [size for dim, size in enumerate(shape) if dim != cut.dim]
    return list(received.view(count, extent, *rest).movedim(1, cut.dim + 1).unbind())


def all_to_all(sent: Tensor, sent_sizes: list[int], received_sizes: list[int], cut: Cut) -> Tensor:
    """Send and receive consecutive parts of these sizes to and from each rank of the cut."""
    received = sent.new_empty(sum(received_sizes))
    torch.distributed.all_to_all_single(received, sent, received_sizes, sent_sizes, group=cut.group)
    return received
