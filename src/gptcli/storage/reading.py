"""Reading files that others may have put there: only regular files, and no more of them than is sensible.

Opening a pipe waits for whoever writes to it, and a device such as /dev/zero has no end. So what a directory of others
merely holds is opened by `open_regular`; what the user names, which may be a pipe, is read up to a bound by
`read_named`. tests/test_architecture.py finds the files that are opened otherwise.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, cast

from gptcli.storage.errors import expanded

SMALL, LARGE, HUGE = 10 * 2**20, 2**28, 2**32
"""Bytes at most: of a configuration or a report; of a file with an entry for each token of a vocabulary or each tensor
of a model, or of a text that is read as a whole; and of a list in the cache, with an entry for each file of a corpus,
which nobody else writes."""
CHUNK = 2**20
KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class UnsuitableFileError(OSError):
    """A path does not lead to a regular file, or the file is larger than such a file may be."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EINVAL, reason)

    def __str__(self) -> str:
        return self.strerror


def open_regular(path: Path) -> BinaryIO:
    """The file of `regular_descriptor`."""
    return cast("BinaryIO", os.fdopen(regular_descriptor(path), "rb"))


def regular_descriptor(path: Path) -> int:
    """A descriptor of a regular file, opened for reading without waiting for anything; a link to one is followed.

    Raises:
        UnsuitableFileError: it is of another kind.
        OSError: it cannot be opened.
    """
    # Without O_NONBLOCK opening a pipe would wait; reading a regular file is the same with it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = next((words for is_kind, words in KINDS if is_kind(mode)), "something else")
        raise UnsuitableFileError(f"it is {kind}, not a regular file")
    return descriptor


def read_regular(path: Path, most: int = SMALL) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
        UnsuitableFileError: it is of another kind, or larger.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        return read_at_most(file, most)


def read_named(path: Path, most: int = LARGE) -> bytes:
    """The content of a file or a pipe that the user names, of at most `most` bytes.

    Raises:
        UnsuitableFileError: there is more in it.
        OSError: it cannot be read.
    """
    with expanded(path).open("rb") as file:
        return read_at_most(file, most)


def read_at_most(file: BinaryIO, most: int) -> bytes:
    """The rest of an open file, pipe or device.

    Raises:
        UnsuitableFileError: it is more than `most` bytes.
    """
    chunks, left = [], most + 1
    while left and (chunk := file.read(min(left, CHUNK))):
        chunks.append(chunk)
        left -= len(chunk)
    if not left:
        raise UnsuitableFileError(f"it is larger than {most:,} bytes, the most that such a file may have")
    return b"".join(chunks)
