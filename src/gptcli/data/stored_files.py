"""The files of token shards: mapped to memory, and compared with the SHA-256 that they should have."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import numpy as np

from gptcli.errors import DataError
from gptcli.manifest import in_threads, sha256_of_part
from gptcli.storage import regular_descriptor, storage_errors

REMEDY = "delete the directory and run the command again, which writes it again"


class MappedFile:
    """A memory-mapped array with a check of its file, since reading a mapped file that was cut short kills the process.

    It holds `count` values (-1: all) from byte `offset` of the file, which has `size` bytes.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], size: int, offset: int = 0, count: int = -1) -> None:
        self.path, self.size = path, size
        with storage_errors(path, "read"):
            self.descriptor = regular_descriptor(path)
            self.check()
            mapped = mmap.mmap(self.descriptor, size, access=mmap.ACCESS_READ) if size else b""
        self.array = np.frombuffer(mapped, dtype=dtype, count=count, offset=offset)

    def check(self) -> None:
        """Raise a DataError if the file has another size now."""
        found = os.fstat(self.descriptor).st_size
        if found != self.size:
            raise DataError(f"{self.path} has {found:,} bytes instead of {self.size:,}", REMEDY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class StoredBytes(NamedTuple):
    """`size` bytes of a file from byte `start` on, and the SHA-256 that they should have."""

    path: Path
    start: int
    size: int
    sha256: str


def different(files: Sequence[StoredBytes]) -> list[StoredBytes]:
    """Return the stretches whose SHA-256 is another."""

    def is_different(file: StoredBytes, stop: Event) -> bool:
        with storage_errors(file.path, "read"):
            return sha256_of_part(file.path, file.start, file.size, stop) != file.sha256 and not stop.is_set()

    return [file for file, found in zip(files, in_threads(is_different, files), strict=True) if found]
