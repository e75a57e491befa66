"""Packing of units of different lengths into rows of one length, best-fit decreasing: each unit, from the longest to
the shortest, goes where it leaves the least space (Johnson 1973; at most 11/9 of the fewest rows, plus one).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class PackedRows(NamedTuple):
    """The units of each row: row r has units[starts[r] : starts[r + 1]]."""

    units: np.ndarray
    """(units,) int64, each once."""
    starts: np.ndarray
    """(rows + 1,) int64, ascending."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, number: int) -> np.ndarray:
        """Return the units of a row."""
        return self.units[self.starts[number] : self.starts[number + 1]]


def pack(lengths: np.ndarray, capacity: int) -> PackedRows:
    """Return rows of at most `capacity` that hold all units; lengths (units,) int64, each at least 1.

    Equally long units stay in their order, so that the result depends on nothing but the lengths.

    Raises:
        ValueError: A unit is longer than a row, or empty.
    """
    if len(lengths) and not 1 <= int(lengths.min()) <= int(lengths.max()) <= capacity:
        raise ValueError(f"units of {lengths.min():,} to {lengths.max():,} do not fit rows of {capacity:,}")
    order = np.argsort(-lengths, kind="stable")
    row_of = np.empty(len(order), dtype=np.int64)
    rows_with: list[list[int]] = [[] for _ in range(capacity + 1)]
    """The rows by the space that is left in them."""
    spaces = 0
    """The bits of this number are the spaces that a row has: the lowest one that suffices is found in one operation."""
    count = 0
    for place, length in enumerate(lengths[order].tolist()):
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            row = rows_with[space].pop()
            if not rows_with[space]:
                spaces ^= 1 << space
        else:
            space, row, count = capacity, count, count + 1
        row_of[place] = row
        left = space - length
        if left:
            rows_with[left].append(row)
            spaces |= 1 << left
    by_row = np.argsort(row_of, kind="stable")
    starts = np.searchsorted(row_of[by_row], np.arange(count + 1))
    return PackedRows(order[by_row].astype(np.int64), starts.astype(np.int64))
