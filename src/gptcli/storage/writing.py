"""Files and directories of our own: nothing is written, emptied or removed through a link.

A path's parents may be links (`runs/latest`, a cache on another disk). The last component may not, since what is
written would lie elsewhere. New files are made with O_EXCL, with the permissions that the umask leaves. A file that has
a second name (a hard link) is not appended to: it becomes a copy first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

from gptcli.errors import StorageError
from gptcli.storage.errors import storage_errors
from gptcli.storage.reading import open_regular

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

FILE_MODE = 0o666
"""Permissions of new files before the umask."""
ZEROS = 1 << 20


def refuse_special_file(path: Path) -> None:
    """Refuse a path that is a symbolic link, a pipe, a socket or a device, which a rename would replace as it does a
    file: a user with the right to do so would lose /dev/null.

    Raises:
        StorageError: names it; for a link it gives the command that puts a copy in its place.
    """
    try:
        mode = path.lstat().st_mode
    except OSError:  # nothing is there, or what is done next fails with this error
        return
    if stat.S_ISLNK(mode):
        raise linked(path)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise irregular(path, mode)


def linked(path: Path) -> StorageError:
    name = shlex.quote(str(path))
    copy = f"put a copy in its place: cp -rL {name} {name}.copy && rm {name} && mv {name}.copy {name}"
    return StorageError(
        f"{path} is a symbolic link to {os.readlink(path)}, and nothing in a run or a cache is written through links",
        copy if path.exists() else f"remove it: rm {name}",
    )


def irregular(path: Path, mode: int) -> StorageError:
    is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    remedy = "give the path of a file" if is_device else f"remove it: rm {shlex.quote(str(path))}"
    return StorageError(f"{path} is not a regular file", remedy)


def open_nofollow(path: Path, flags: int) -> int:
    """A descriptor of the regular file at `path`, opened with `flags` of os.open.

    Raises:
        StorageError: a link, a pipe or a device lies there.
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
        raise irregular(path, mode)
    return descriptor


def create_file(path: Path) -> BinaryIO:
    """Open a new file for writing; nothing may lie at `path`. Its descriptor may also be mapped."""
    return cast("BinaryIO", os.fdopen(open_nofollow(path, os.O_RDWR | os.O_CREAT | os.O_EXCL), "wb"))


def create_text_file(path: Path) -> TextIO:
    """Open a new file for text in UTF-8, whose line ends are written as they are."""
    descriptor = open_nofollow(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    return cast("TextIO", os.fdopen(descriptor, "w", encoding="utf-8", newline=""))


def write_file(path: Path, content: ReadableBuffer | str) -> None:
    """Write a new file of a directory that nobody uses yet. One that is in use needs `write_atomic`."""
    data = content.encode() if isinstance(content, str) else content
    with create_file(path) as file:
        file.write(data)


def make_directory(path: Path) -> None:
    """Make a directory, and those above it, if there is none; its parents may be links, itself it may not.

    Raises:
        StorageError: it is a link, or cannot be made.
    """
    with storage_errors(path, "create"):
        refuse_special_file(path)
        path.mkdir(parents=True, exist_ok=True)


def copy_file(source: Path, target: Path) -> None:
    """Write the content of a file to a new one, whose permissions are those of any new file."""
    with create_file(target) as file:
        append_content(source, file)


def append_content(source: Path, out: BinaryIO) -> None:
    """Write the content of a regular file to an open one."""
    with open_regular(source) as content:
        shutil.copyfileobj(content, out, 1 << 20)


def copy_tree(source: Path, target: Path) -> None:
    """Copy the files and directories in `source` into the directory `target`; nothing there may have their names."""
    for entry in sorted(source.iterdir()):
        if entry.is_dir():
            (target / entry.name).mkdir()
            copy_tree(entry, target / entry.name)
        else:
            copy_file(entry, target / entry.name)


def remove_tree(path: Path) -> None:
    """Remove a file or a directory with all that is in it, and of a link nothing but itself; if it is there."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)


def allocate(file: BinaryIO, size: int) -> None:
    """Give an empty file `size` bytes of the disk, all zero, so that no later write to it finds the disk full: a write
    to a mapped file would end the process with SIGBUS.

    Raises:
        OSError: there is no room.
    """
    if not size:
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except (OSError, AttributeError) as error:  # not every file system and system can
        if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        for start in range(0, size, ZEROS):
            file.write(bytes(min(ZEROS, size - start)))
        file.flush()
