"""The lock for the one writer of a run: an advisory file lock, which the system releases when its holder ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptcli.errors import UsageError
from gptcli.storage import open_nofollow, storage_errors

NAMING_SECONDS = 0.5
"""The longest wait for the name of a process that has just taken the lock."""


@contextmanager
def writer_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path` during the block. The file names the holder's process and is removed at the end.

    The lock of a killed process is free at once, since the system's lock counts and not the file.

    Raises:
        UsageError: another process holds the lock; the message names it. The function does not wait.
        StorageError: the file cannot be written, or is a link.
    """
    descriptor = locked_file(path)
    try:
        with storage_errors(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            path.unlink()
        os.close(descriptor)


def locked_file(path: Path) -> int:
    """Return a descriptor of the locked file at `path`, which has no second name.

    Raises:
        UsageError, StorageError: as `writer_lock`.
    """
    while True:
        with storage_errors(path):
            descriptor = open_nofollow(path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found, listed = os.fstat(descriptor), os.stat(path, follow_symlinks=False)
                if os.path.samestat(found, listed) and found.st_nlink == 1:
                    return descriptor
                if os.path.samestat(found, listed):  # `cp -al` has given it a second name
                    path.unlink()
            except FileNotFoundError:
                pass  # its holder has just ended and removed it
            except BlockingIOError:
                holder = holder_of(descriptor) or "another process"
                os.close(descriptor)
                raise UsageError(
                    f"{path.parent} is being written by {holder}", "wait for it, stop it, or choose another --out"
                ) from None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)


def holder_of(descriptor: int) -> str:
    """Return the holder that the file names, or an empty text."""
    give_up = time.monotonic() + NAMING_SECONDS
    while not (holder := os.pread(descriptor, 200, 0).decode(errors="replace").strip()) and time.monotonic() < give_up:
        time.sleep(0.01)
    return holder


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock file. The lock itself is left alone."""
    try:
        descriptor = open_nofollow(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)
