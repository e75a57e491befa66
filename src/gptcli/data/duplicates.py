"""Documents that equal earlier ones, by their 16-byte digests, in memory that does not grow with their number.

More digests than fit are first distributed among files by their leading bits, each with its place, so that equal ones
come together; every file is then sorted by itself.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gptcli.data.arrays import stretches
from gptcli.storage import open_nofollow

SORTED_AT_ONCE = 1 << 21
"""The number of digests that are sorted in memory, about 0.1 GB."""
MAX_FILES = 1024
PLACED = np.dtype([("high", "<u8"), ("low", "<u8"), ("place", "<u8")])


def later_occurrences(records: np.ndarray, folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (places, places of their first occurrences) of all documents that occur earlier, ascending in each pair.

    Args:
        records: An array with the fields `high` and `low`, the halves of the digest.
        folder: A place for temporary files, if the corpus is large.
    """
    if len(records) <= SORTED_AT_ONCE:
        yield from equal_ones(np.array(records["high"]), np.array(records["low"]), np.arange(len(records)))
        return
    bits = min(MAX_FILES, 2 * len(records) // SORTED_AT_ONCE).bit_length()
    with tempfile.TemporaryDirectory(dir=folder, prefix="digests-") as scratch:
        files = [Path(scratch) / f"{number:03}" for number in range(1 << bits)]
        distribute(records, files, bits)
        for file in files:
            if file.exists():
                placed = np.fromfile(file, dtype=PLACED)
                file.unlink()
                yield from equal_ones(placed["high"], placed["low"], placed["place"])


def distribute(records: np.ndarray, files: list[Path], bits: int) -> None:
    """Append each digest and its place to the file of its leading bits."""
    for start, some in stretches(records):
        placed = np.empty(len(some), dtype=PLACED)
        placed["high"], placed["low"], placed["place"] = some["high"], some["low"], start + np.arange(len(some))
        numbers = (placed["high"] >> np.uint64(64 - bits)).astype(np.int64)
        order = np.argsort(numbers, kind="stable")
        edges = np.searchsorted(numbers[order], np.arange(len(files) + 1))
        for number, file in enumerate(files):
            with os.fdopen(open_nofollow(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as out:
                out.write(placed[order[edges[number] : edges[number + 1]]].tobytes())


def equal_ones(high: np.ndarray, low: np.ndarray, places: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the later occurrences of digests whose places ascend, as `later_occurrences`."""
    order = np.lexsort((low, high))  # stable: equal digests stay in their order
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)
    leaders = order[is_new][np.cumsum(is_new) - 1]
    again = np.flatnonzero(~is_new)
    by_place = again[np.argsort(order[again])]
    if len(by_place):
        yield places[order[by_place]].astype(np.int64), places[leaders[by_place]].astype(np.int64)
