"""Temporary places in which exports are written, so that a kill at any moment leaves the old target or the new one.

A file, or a directory that is not there yet, is written beside its place and renamed. A directory that is there and
empty may be a mount point or somebody's current directory: what is to lie in it is written to a temporary directory
inside, and then moved. A move that was killed is finished by the next export.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptcli import strict_json
from gptcli.console import say
from gptcli.storage import (
    atomic_directory,
    atomic_file,
    clean_temporaries,
    errors_name,
    held_directory,
    leftovers,
    publish,
    read_regular,
    remove_tree,
    set_modes,
    storage_errors,
    temporary_name,
    write_atomic,
)

INSIDE = "export"
"""The beginning of the name of a temporary directory inside an existing one."""
MOVING = "moving.json"
"""The file in such a directory that lists the files to be moved, in order. It is written when all of them are whole."""


@contextmanager
def staged_file(out: Path) -> Iterator[Path]:
    """Yield the path of an empty file in a directory of its own, which becomes `out` when the block ends without an
    error, after every other file in that directory, whose names must be new, was moved beside `out`.

    Raises:
        StorageError: the place cannot be written; nothing is left behind.
    """
    real = Path(os.path.realpath(out))  # the user may name a link
    clean_temporaries(real.parent, real.name)
    with atomic_file(real) as temporary, errors_name(out, temporary):
        yield temporary
        for other in sorted(temporary.parent.iterdir()):
            if other != temporary:
                publish(other, real.parent / other.name)


@contextmanager
def staged_directory(out: Path, last: str) -> Iterator[Path]:
    """Yield an empty directory whose files are those of `out` when the block ends without an error.

    `out` must not be there, or `require_empty` have been called. The file named `last` appears last: without it no
    program takes the others for a model.

    Raises:
        StorageError: the place cannot be written; nothing is left behind.
    """
    real = Path(os.path.realpath(out))
    if real.is_dir():
        with inside(real, last) as folder, errors_name(out, folder):
            yield folder
        return
    clean_temporaries(real.parent, real.name)
    with atomic_directory(real) as folder, errors_name(out, folder):
        yield folder


@contextmanager
def inside(directory: Path, last: str) -> Iterator[Path]:
    """Yield a temporary directory whose files are moved to `directory`, in which it lies, when the block ends well."""
    folder = temporary_name(directory / INSIDE)
    with storage_errors(directory):
        try:
            with held_directory(folder):
                yield folder
                set_modes(folder)
                names = sorted((path.name for path in folder.iterdir()), key=lambda name: (name == last, name))
                write_atomic(folder / MOVING, strict_json.dumps(names))
                move(folder, directory)
        finally:
            remove_tree(folder)


def move(folder: Path, directory: Path) -> None:
    """Move the files of a directory that is whole; some of them may have been moved already."""
    for name in strict_json.parse(read_regular(folder / MOVING)):
        if (folder / name).exists():
            publish(folder / name, directory / name)


def foreign_name(out: Path) -> str | None:
    """The name of something in the directory `out`, which is to be written; None if it is empty.

    What an export that was killed has left there is removed or, where it was whole, finished and then found.
    """
    out = Path(os.path.realpath(out))
    for folder in leftovers(out, INSIDE):
        with storage_errors(out):
            if (folder / MOVING).is_file():
                say(f"{out} is what an earlier export has written, which was killed before it had moved all files")
                move(folder, out)
            remove_tree(folder)
    return min((path.name for path in out.iterdir()), default=None)
