"""Arrays larger than memory, in files, which are read and changed a stretch at a time."""

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
    """Yield (start, a view of the next elements of each) for arrays of one length.

    No more than these elements of mapped files stays in memory.
    """
    for start in range(0, len(arrays[0]), AT_ONCE):
        yield start, *(array[start : start + AT_ONCE] for array in arrays)
        for array in arrays:
            release_memory(array)


def new_array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of zeros in a new file, which is mapped to memory and may be written.

    The place of the file on the disk is allocated at once, so that no write can fail.

    Raises:
        StorageError: There is no room for it.
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
    is_new = np.append(True, ascending[1:] != ascending[:-1])[: len(ascending)]
    return np.compress(is_new, ascending)


def release_memory(array: np.ndarray) -> None:
    """Release the memory of a mapped file, whose content stays; other arrays are left alone."""
    mapped = getattr(array, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
