"""Groups of equal or nearly equal documents, which are on one side of the split together.

Groups are the connected components of pairs of documents, found by union-find over an array in a file, so that there
may be more documents than fit in memory. Documents are only numbers here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from gptcli.data.arrays import new_array, stretches

Pairs = Iterable[tuple[np.ndarray, np.ndarray]]
"""Pairs of two arrays (M,) of int64: the places of documents, and of others that they belong to."""
FIRSTS, TOTALS = "group-firsts.bin", "group-bytes.bin"
PLACE = np.dtype("<i8")


class Groups:
    """Groups of one document each. `folder` is for temporary files."""

    keeps_duplicates = False
    """Whether a document that equals an earlier one is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def firsts(self, places: np.ndarray) -> np.ndarray:
        """places (N,) -> (N,) the first document of the group of each."""
        return places

    def keys(self, places: np.ndarray, digests: np.ndarray) -> np.ndarray:
        """places (N,), digests (N,) uint64 -> (N,) uint64, equal for all documents of a group."""
        return digests

    def bytes(self, places: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """places (N,), their bytes (N,) -> (N,) bytes of the kept documents of the group of each."""
        return sizes

    def are_alone(self, places: np.ndarray) -> np.ndarray:
        """places (N,) -> (N,) bool: True if no other kept document is in the group."""
        return np.ones(len(places), dtype=bool)

    def measure(self, records: np.ndarray, is_kept: np.ndarray) -> None:
        """Sum up the groups once the kept documents are known; `is_kept` (documents,) is 0 for these."""

    def remove_files(self) -> None:
        """Delete the temporary files."""


class LinkedGroups(Groups):
    """Groups of `count` documents, some of which are connected by `pairs`."""

    def __init__(self, folder: Path, count: int, pairs: Pairs, *, keeps_duplicates: bool) -> None:
        super().__init__(folder)
        self.keeps_duplicates = keeps_duplicates
        self.parents = new_array(folder / FIRSTS, PLACE, (count,))
        self.totals = new_array(folder / TOTALS, PLACE, (2, count))
        for start, some in stretches(self.parents):
            some[:] = np.arange(start, start + len(some))
        for places, others in pairs:
            self.unite(places, others)

    def firsts(self, places: np.ndarray) -> np.ndarray:
        """Return the place of the first document of each group."""
        found = np.asarray(places)
        while True:
            parents = self.parents[found]
            if np.array_equal(parents, found):
                return found
            found = parents

    def unite(self, places: np.ndarray, others: np.ndarray) -> None:
        """Join the groups of the two documents of each pair; a root is always the first document of its group."""
        while len(places):
            mine, theirs = self.firsts(places), self.firsts(others)
            is_apart = mine != theirs
            places, others = np.maximum(mine, theirs)[is_apart], np.minimum(mine, theirs)[is_apart]
            self.parents[places] = others  # if several have one root, one is stored, and the others are tried again

    def measure(self, records: np.ndarray, is_kept: np.ndarray) -> None:
        """Count the bytes and the documents of each group."""
        self.records = records
        for start, some, kinds in stretches(records, is_kept):
            kept = np.flatnonzero(kinds == 0)
            roots, index = np.unique(self.firsts(start + kept), return_inverse=True)
            self.totals[0, roots] += np.bincount(index, some["bytes"][kept], len(roots)).astype(PLACE)
            self.totals[1, roots] += np.bincount(index, minlength=len(roots))

    def keys(self, places: np.ndarray, digests: np.ndarray) -> np.ndarray:
        """Return the hash of the first document of each group."""
        keys: np.ndarray = self.records["high"][self.firsts(places)]
        return keys

    def bytes(self, places: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Return the bytes of each group."""
        return np.asarray(self.totals[0, self.firsts(places)], dtype=np.uint64)

    def are_alone(self, places: np.ndarray) -> np.ndarray:
        """Return whether each document is the only one of its group."""
        return np.asarray(self.totals[1, self.firsts(places)] < 2)

    def remove_files(self) -> None:
        """Remove the files of the groups."""
        for name in (FIRSTS, TOTALS):
            (self.folder / name).unlink(missing_ok=True)
