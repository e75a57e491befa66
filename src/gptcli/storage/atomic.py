"""Files and directories that appear under their name when they are whole: after a crash at any moment the old one is
there, or the new one.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptcli.errors import GptcliError, StorageError
from gptcli.storage.errors import storage_error, storage_errors
from gptcli.storage.reading import open_regular
from gptcli.storage.temporaries import held_directory, temporary_name
from gptcli.storage.writing import create_file, open_nofollow, refuse_special_file, remove_tree


def fsync_path(path: Path) -> None:
    """Flush a file or a directory entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(temporary: Path, path: Path) -> None:
    """Rename a temporary file, or a directory whose target does not exist, to `path`. Its content is flushed before,
    its parent after.

    Raises:
        StorageError: `path` is a link.
        OSError: it cannot be flushed or renamed.
    """
    refuse_special_file(path)
    flush_tree(temporary)
    temporary.replace(path)
    fsync_path(path.parent)


def flush_tree(path: Path) -> None:
    """Flush a file, or a directory and everything in it, to the disk."""
    for entry in sorted(path.rglob("*"), reverse=True):
        fsync_path(entry)
    fsync_path(path)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content`: after a crash at any moment it holds the old bytes or the new ones, whole.

    Raises:
        StorageError: the disk is full, or `path` is a link or cannot be written; nothing is left behind.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = temporary_name(path)
    with storage_errors(path, needed=len(data)):
        refuse_special_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with create_file(temporary) as file:
                file.write(data)
            publish(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def append_file(path: Path) -> io.FileIO:
    """Open a file, creating it if necessary, for unbuffered reading and appending.

    A file with a second hard link is replaced by a copy first, so that the content under the other name does not
    change.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
    descriptor = open_nofollow(path, flags)
    if os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        write_atomic(path, path.read_bytes())
        descriptor = open_nofollow(path, flags)
    return os.fdopen(descriptor, "a+b", buffering=0)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield the path of an empty file, which becomes `path` when the block ends without an error.

    The file is in a temporary directory of its own, so that a library may write files beside it or replace it.

    Raises:
        StorageError: the disk is full, or `path` is a link or cannot be written; nothing is left behind.
    """
    with scratch_for(path) as scratch:
        temporary = scratch / path.name
        create_file(temporary).close()
        yield temporary
        set_modes(scratch)
        publish(temporary, path)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory that becomes `path` when the block ends without an error.

    Every file in it is fsynced before the rename and the parent after it, and has the permissions of a new file. An
    existing `path` is kept until the new directory is whole. On any error the temporary directory is removed.

    Raises:
        StorageError: the disk is full, or `path` is a link or cannot be written; nothing is left behind.
    """
    with scratch_for(path) as temporary, errors_name(path, temporary):
        yield temporary
        set_modes(temporary)
        if path.exists():
            flush_tree(temporary)
            replaced = temporary_name(path)
            path.rename(replaced)
            publish(temporary, path)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            publish(temporary, path)


@contextmanager
def scratch_for(path: Path) -> Iterator[Path]:
    """Yield a new temporary directory beside `path`. It is removed when the block ends, unless it was renamed.

    Raises:
        StorageError: the disk is full, or `path` is a link or cannot be written.
    """
    scratch = temporary_name(path)
    with storage_errors(path):
        refuse_special_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with held_directory(scratch):
                yield scratch
        except OSError as error:
            raise no_room_error(scratch, path, error) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def errors_name(path: Path, temporary: Path) -> Iterator[None]:
    """Replace `temporary` by `path`, which the user knows, in the message of each error that the block raises."""
    try:
        yield
    except GptcliError as error:
        named = (part.replace(str(temporary), str(path)) for part in (error.message, error.remedy))
        GptcliError.__init__(error, *named)
        raise


def no_room_error(temporary: Path, path: Path, error: OSError) -> StorageError:
    """Return the error about writing to `temporary`, which is removed, in place of `path`.

    More bytes are needed than the temporary had taken, so the message gives that number.
    """
    found = [entry.lstat() for entry in temporary.rglob("*")]
    taken = sum(max(entry.st_size, entry.st_blocks * 512) for entry in found)
    shutil.rmtree(temporary, ignore_errors=True)
    return storage_error(path, error, needed=f"more than {taken:,}")


def remove_directory(path: Path) -> None:
    """Rename a directory, then delete it, so that a kill in between leaves something to clean and never half of it.

    Raises:
        StorageError: it is a link, or cannot be removed.
    """
    condemned = temporary_name(path)
    with storage_errors(path, "remove"):
        refuse_special_file(path)
        path.rename(condemned)
        remove_tree(condemned)


def set_modes(directory: Path) -> None:
    """Give everything in a directory the permissions that new files and directories have beside it, whatever a library
    set.

    Files with a second hard link, under which others may use them, keep their permissions.
    """
    allowed = stat.S_IMODE(directory.stat().st_mode)
    for entry in directory.rglob("*"):
        found = entry.lstat()
        is_directory = stat.S_ISDIR(found.st_mode)
        wanted = allowed & (0o7777 if is_directory else 0o666)
        if stat.S_IMODE(found.st_mode) != wanted and (is_directory or found.st_nlink == 1):
            entry.chmod(wanted)


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file, which is read in bounded memory."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
