"""The system's errors about files as errors for the user."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptcli.errors import StorageError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


REMEDIES = {
    errno.ENOSPC: "free some disk space and run the same command again",
    errno.EDQUOT: "your disk quota is used up: free some space",
    errno.EFBIG: "the file is larger than this system allows",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EROFS: "the file system is read-only: choose another place",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "name a file in it",
    errno.ELOOP: "check where the link leads",
    errno.ENAMETOOLONG: "choose a shorter name",
}


@contextmanager
def storage_errors(path: Path | str, action: str = "write", needed: int = 0) -> Iterator[None]:
    """Turn an OSError about `path` into a StorageError, as `storage_error` does."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error, action, f"{needed:,}" if needed else "") from error


def storage_error(path: Path | str, error: OSError, action: str = "write", needed: str = "") -> StorageError:
    """The error for the user: with the remedy and, where there is no room, the bytes that are free and those that are
    `needed`, if that is known."""
    reason = error.strerror or str(error)
    if error.errno in NO_ROOM:
        place = next(parent for parent in Path(path).absolute().parents if parent.exists())
        wanted = f"it needs {needed} bytes, " if needed else ""
        reason += f" ({wanted}{shutil.disk_usage(place).free:,} {'are' if needed else 'bytes are'} free)"
    return StorageError(f"cannot {action} {path}: {reason}", REMEDIES.get(error.errno or 0, ""))


def expanded(name: Path | str) -> Path:
    """A path as the user wrote it, with the home directory for `~`; `~nobody` stays as it is, as in a shell."""
    return Path(os.path.expanduser(name))
