"""Files that are whole or absent: atomic writes, atomic directories, hashes. Knows nothing of what is in them."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptcli.errors import StorageError

TEMPORARY_MARK = ".tmp-"
"""Part of every temporary name, so that what a killed process left behind can be recognised and removed."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def storage_errors(path: Path | str, action: str = "write", needed: int = 0) -> Iterator[None]:
    """Turn an OSError about `path` into a StorageError that names the remedy and, where there is no room for the
    `needed` bytes, those that are free."""
    try:
        yield
    except OSError as error:
        remedies = {
            errno.ENOSPC: "free some disk space and run the same command again",
            errno.EDQUOT: "your disk quota is used up: free some space",
            errno.EFBIG: "the file is larger than this system allows",
            errno.EACCES: "check the permissions",
            errno.EPERM: "check the permissions",
            errno.EROFS: "the file system is read-only: choose another place",
            errno.ENOENT: "check the path",
        }
        reason = error.strerror or str(error)
        if needed and error.errno in NO_ROOM:
            place = next(parent for parent in Path(path).absolute().parents if parent.exists())
            reason += f" (it needs {needed:,} bytes, {shutil.disk_usage(place).free:,} are free)"
        raise StorageError(f"cannot {action} {path}: {reason}", remedies.get(error.errno or 0, "")) from error


def temporary_name(path: Path) -> Path:
    """A sibling of `path` that no other process uses and that clean_temporaries recognises."""
    return path.with_name(f"{path.name}{TEMPORARY_MARK}{os.getpid()}-{secrets.token_hex(4)}")


def fsync_path(path: Path) -> None:
    """Flush a file or a directory entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content`: after a crash at any moment it holds the old bytes or the new ones, whole.

    Raises:
        StorageError: the disk is full or the path cannot be written; nothing is left behind.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = temporary_name(path)
    with storage_errors(path, needed=len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_path(path.parent)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there becomes `path` when the block ends without an error.

    Raises:
        StorageError: the disk is full or the path cannot be written; nothing is left behind.
    """
    temporary = temporary_name(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            fsync_path(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_path(path.parent)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory that becomes `path` when the block ends without an error.

    Every file in it is fsynced before the rename and the parent after it. An existing `path` is kept until the new
    directory is whole. On any error the temporary directory is removed.
    """
    temporary = temporary_name(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            yield temporary
            for entry in sorted(temporary.rglob("*"), reverse=True):
                fsync_path(entry)
            fsync_path(temporary)
            if path.exists():
                replaced = temporary_name(path)
                path.rename(replaced)
                temporary.rename(path)
                shutil.rmtree(replaced, ignore_errors=True)
            else:
                temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fsync_path(path.parent)


def clean_temporaries(directory: Path) -> list[Path]:
    """Remove what processes that no longer run left half-written in `directory`; returns what was removed."""
    removed = []
    for entry in directory.glob(f"*{TEMPORARY_MARK}*"):
        owner = entry.name.rpartition(TEMPORARY_MARK)[2].partition("-")[0]
        if owner.isdigit() and not process_is_alive(int(owner)):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
            removed.append(entry)
    return removed


def process_is_alive(pid: int) -> bool:
    """Whether a process of that number runs on this machine (also one of another user)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in bounded memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
