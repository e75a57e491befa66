"""Arrays larger than memory, in files: read and changed a stretch at a time. Knows not what their numbers mean."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gptcli.storage import allocate, create_file, storage_errors

AT_ONCE = 1 << 20


def stretches(*arrays: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """(start, views of so many elements) of arrays of one length; of mapped files no more than that stays in memory."""
    for start in range(0, len(arrays[0]), AT_ONCE):
        yield start, *(array[start : start + AT_ONCE] for array in arrays)
        for array in arrays:
            let_go(array)


def new_array(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """An array of zeros in a new file, which is mapped to memory and may be written. The file has its place on the disk
    from the beginning, so that no write can fail.

    Raises:
        StorageError: there is no room for it.
    """
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return np.zeros(shape, dtype)
    with storage_errors(path, needed=size), create_file(path) as file:
        allocate(file, size)
        return np.memmap(file, dtype, mode="r+", shape=shape)


def distinct(values: np.ndarray) -> np.ndarray:
    """values (N,) -> (M,) different ones, ascending; many times as fast as np.unique, which hashes them."""
    ascending = np.sort(values)
    return ascending[np.append(True, ascending[1:] != ascending[:-1])[: len(ascending)]]


def let_go(array: np.ndarray) -> None:
    """Give back the memory of a mapped file, whose content stays; other arrays stay as they are."""
    mapped = getattr(array, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
