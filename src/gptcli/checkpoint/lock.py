"""One writer to a run: an advisory lock on a file, which the system releases when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptcli.errors import UsageError
from gptcli.storage import storage_errors

NAMING_SECONDS = 0.5
"""How long a process that has just taken the lock is given to write down its name."""


@contextmanager
def writer_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path` for the block; the file itself stays, with the holder's process number in it.

    A lock whose holder was killed is free at once: what counts is the system's lock, not the file.

    Raises:
        UsageError: another process holds it; names that process. Never waits for it to end.
    """
    with storage_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{path.parent} is being written by {holder_of(descriptor) or 'another process'}",
                "wait for it, stop it, or choose another --out",
            ) from None
        with storage_errors(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def holder_of(descriptor: int) -> str:
    """Who holds the lock, as the file says; nothing if it does not."""
    give_up = time.monotonic() + NAMING_SECONDS
    while not (holder := os.pread(descriptor, 200, 0).decode(errors="replace").strip()) and time.monotonic() < give_up:
        time.sleep(0.01)
    return holder
