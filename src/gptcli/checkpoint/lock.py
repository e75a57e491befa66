"""One writer to a run: an advisory lock on a file, which the system releases when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptcli.errors import UsageError
from gptcli.storage import storage_errors


@contextmanager
def writer_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path` for the block; the file itself stays, with the holder's process number in it.

    A lock whose holder was killed is free at once: what counts is the system's lock, not the file.

    Raises:
        UsageError: another process holds it; names that process. Never waits.
    """
    with storage_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            raise UsageError(
                f"{path.parent} is being written by {holder}", "wait for it, stop it, or choose another --out"
            ) from None
        with storage_errors(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
