"""Creating, copying and removing files and directories: nothing is written, emptied or removed through a link.

A path's parents may be links (`runs/latest`, a cache on another disk). The last component may not, because the data
would be written somewhere else. New files are created with O_EXCL and with the permissions that the umask leaves. A
file with a second hard link is not appended to: it is replaced by a copy first.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shlex
import shutil
import stat
from pathlib import Path
from typing import IO, TYPE_CHECKING

from gptcli.errors import StorageError
from gptcli.storage.errors import storage_errors
from gptcli.storage.reading import open_regular

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

FILE_MODE = 0o666
"""Permissions of new files before the umask."""
ZEROS = 1 << 20


def refuse_special_file(path: Path) -> None:
    """Refuse a path that is a symbolic link, a pipe, a socket or a device.

    A rename would replace it like a file: a user who has the right to do so would lose /dev/null.

    Raises:
        StorageError: the path is one; for a link the remedy is the command that puts a copy in its place.
    """
    try:
        mode = path.lstat().st_mode
    except OSError:  # nothing exists there, or the next call fails with this error
        return
    if stat.S_ISLNK(mode):
        raise link_error(path)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise special_file_error(path, mode)


def link_error(path: Path) -> StorageError:
    """Return the error for a path that is a symbolic link."""
    name = shlex.quote(str(path))
    copy = f"put a copy in its place: cp -rL {name} {name}.copy && rm {name} && mv {name}.copy {name}"
    return StorageError(
        f"{path} is a symbolic link to {os.readlink(path)}, and nothing in a run or a cache is written through links",
        copy if path.exists() else f"remove it: rm {name}",
    )


def special_file_error(path: Path, mode: int) -> StorageError:
    """Return the error for a path that is a pipe, a socket or a device."""
    is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    remedy = "give the path of a file" if is_device else f"remove it: rm {shlex.quote(str(path))}"
    return StorageError(f"{path} is not a regular file", remedy)


def open_nofollow(path: Path, flags: int) -> int:
    """Return a descriptor of the regular file at `path`, opened with `flags` of os.open.

    Raises:
        StorageError: the path is a link, a pipe or a device.
        OSError: the file cannot be opened.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.EEXIST):
            refuse_special_file(path)
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise special_file_error(path, mode)
    return descriptor


def create_file(path: Path) -> io.BufferedWriter:
    """Open a new file for writing; nothing may exist at `path`. Its descriptor may also be mapped into memory."""
    return os.fdopen(open_nofollow(path, os.O_RDWR | os.O_CREAT | os.O_EXCL), "wb")


def create_text_file(path: Path) -> io.TextIOWrapper:
    """Open a new file for text in UTF-8, whose line ends are written as they are."""
    descriptor = open_nofollow(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    return os.fdopen(descriptor, "w", encoding="utf-8", newline="")


def write_file(path: Path, content: ReadableBuffer | str) -> None:
    """Write a new file in a directory that nobody uses yet. A directory in use needs `write_atomic`."""
    data = content.encode() if isinstance(content, str) else content
    with create_file(path) as file:
        file.write(data)


def make_directory(path: Path) -> None:
    """Create a directory and its parents if necessary. The parents may be links, the directory itself may not.

    Raises:
        StorageError: it is a link, or cannot be created.
    """
    with storage_errors(path, "create"):
        refuse_special_file(path)
        path.mkdir(parents=True, exist_ok=True)


def copy_file(source: Path, target: Path) -> None:
    """Write the content of a file to a new one, which has the permissions of any new file."""
    with create_file(target) as file:
        append_content(source, file)


def append_content(source: Path, out: IO[bytes]) -> None:
    """Write the content of a regular file to an open one."""
    with open_regular(source) as content:
        shutil.copyfileobj(content, out, 1 << 20)


def copy_tree(source: Path, target: Path) -> None:
    """Copy the files and directories in `source` into the directory `target`, in which nothing may have their names."""
    for entry in sorted(source.iterdir()):
        if entry.is_dir():
            (target / entry.name).mkdir()
            copy_tree(entry, target / entry.name)
        else:
            copy_file(entry, target / entry.name)


def remove_tree(path: Path) -> None:
    """Remove a file, a directory with everything in it, or a link but not its target. A missing path is no error."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)


def allocate(file: IO[bytes], size: int) -> None:
    """Reserve `size` bytes of the disk, all zero, for an empty file, so that no later write to it finds the disk full.

    Writing to a mapped file on a full disk would end the process with SIGBUS.

    Raises:
        OSError: there is no room.
    """
    if not size:
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except (OSError, AttributeError) as error:  # not supported by every file system and system
        if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        for start in range(0, size, ZEROS):
            file.write(bytes(min(ZEROS, size - start)))
        file.flush()
