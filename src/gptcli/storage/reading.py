"""Reading files that others may have written: only regular files, and only up to a sensible size.

Opening a pipe waits for its writer, and a device such as /dev/zero has no end. Files that were only found in a
directory of others are therefore opened by `open_regular`; a file that the user names, which may be a pipe, is read up
to a bound by `read_named`. tests/test_architecture.py finds the files that are opened otherwise.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import IO

from gptcli.storage.errors import expanded

SMALL, LARGE, HUGE = 10 * 2**20, 2**28, 2**32
"""Largest sizes in bytes. SMALL is for a configuration or a report; LARGE for a file with an entry for each token of a
vocabulary or each tensor of a model, or a text that is read as a whole; HUGE for a list in the cache, which nobody else
writes, with an entry for each file of a corpus."""
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
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


def open_regular(path: Path) -> io.BufferedReader:
    """Open the file of `regular_descriptor`."""
    return os.fdopen(regular_descriptor(path), "rb")


def regular_descriptor(path: Path) -> int:
    """Return a descriptor of a regular file, opened for reading without waiting for anything; a link to one is
    followed.

    Raises:
        UnsuitableFileError: it is not a regular file.
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
    """Return the content of a regular file of at most `most` bytes.

    Raises:
        UnsuitableFileError: it is not a regular file, or larger.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        return read_at_most(file, most)


def read_named(path: Path, most: int = LARGE) -> bytes:
    """Return the content of a file or a pipe that the user names, of at most `most` bytes.

    Raises:
        UnsuitableFileError: it holds more.
        OSError: it cannot be read.
    """
    with expanded(path).open("rb") as file:
        return read_at_most(file, most)


def read_at_most(file: IO[bytes], most: int) -> bytes:
    """Return the rest of an open file, pipe or device.

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
