"""Errors of the system about files, turned into errors for the user; and where the user's paths lead."""

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
    errno.EDQUOT: "free some space, since your disk quota is used up",
    errno.EFBIG: "choose a file system that allows larger files",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.EROFS: "choose another place, since this file system is read-only",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "name a file in it",
    errno.ELOOP: "check where the link leads",
    errno.ENAMETOOLONG: "choose a shorter name",
}


@contextmanager
def storage_errors(path: Path | str, action: str = "write", needed: int = 0) -> Iterator[None]:
    """Turn an OSError about `path` into the StorageError of `storage_error`."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error, action, f"{needed:,}" if needed else "") from error


def storage_error(path: Path | str, error: OSError, action: str = "write", needed: str = "") -> StorageError:
    """Return the error for the user, with a remedy.

    If there is no room, the message gives the bytes that are free and, if it is known, how many are `needed`.
    """
    reason = error.strerror or str(error)
    if error.errno in NO_ROOM:
        place = next(parent for parent in Path(path).absolute().parents if parent.exists())
        wanted = f"it needs {needed} bytes, " if needed else ""
        reason += f" ({wanted}{shutil.disk_usage(place).free:,} {'are' if needed else 'bytes are'} free)"
    return StorageError(f"cannot {action} {path}: {reason}", REMEDIES.get(error.errno or 0, ""))


def expanded(name: Path | str) -> Path:
    """Return a path as the user wrote it, with the home directory for `~`; `~nobody` stays as it is, as in a shell."""
    return Path(os.path.expanduser(name))


def default_cache_dir() -> Path:
    """Return $XDG_CACHE_HOME/gptcli, or ~/.cache/gptcli."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gptcli"
