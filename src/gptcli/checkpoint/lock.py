"""One writer to a run: an advisory lock on a file, which the system releases when its holder ends, however it ends."""

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
"""How long a process that has just taken the lock is given to write down its name."""


@contextmanager
def writer_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path` for the block. It names the holder's process, and is removed at the end.

    A lock whose holder was killed is free at once: what counts is the system's lock, not the file.

    Raises:
        UsageError: another process holds it; names that process. Never waits for it to end.
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
    """A descriptor of the file that lies at `path` while it is locked, and has no second name.

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
                if os.path.samestat(found, listed):  # a copy by hard links (`cp -al`): the other name keeps the file
                    path.unlink()
            except FileNotFoundError:
                pass  # its holder has just ended, and removed it
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
    """Who holds the lock, as the file says; nothing if it does not."""
    give_up = time.monotonic() + NAMING_SECONDS
    while not (holder := os.pread(descriptor, 200, 0).decode(errors="replace").strip()) and time.monotonic() < give_up:
        time.sleep(0.01)
    return holder
