"""Temporary places in which exports are written, so that a kill at any moment leaves the old target or the new one.

A file, or a directory that does not exist yet, is written beside its place and renamed. An existing empty directory may
be a mount point or a current directory: its files are written to a temporary directory inside it and then moved. The
next export finishes a move that was killed.
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
"""The file in such a directory that lists the files to move, in order. It is written when all of them are whole."""


@contextmanager
def staged_file(out: Path) -> Iterator[Path]:
    """Yield the path of an empty file in a directory of its own, which becomes `out` after the block.

    Other files in that directory, whose names must be new, are moved beside `out` first.

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
    """Yield an empty directory whose files become those of `out` after the block.

    `out` must not exist, or `foreign_name` must have returned None. The file named `last`, without which no program
    takes the others for a model, appears last.

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
    """Yield a temporary directory in `directory`, to which its files are moved after the block."""
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
    """Move the files of a whole directory, of which some may have been moved already."""
    for name in strict_json.parse(read_regular(folder / MOVING)):
        if (folder / name).exists():
            publish(folder / name, directory / name)


def foreign_name(out: Path) -> str | None:
    """Return the name of something in the directory `out`, or None if it is empty.

    What a killed export has left there is removed or, if it was whole, moved to its place.
    """
    out = Path(os.path.realpath(out))
    for folder in leftovers(out, INSIDE):
        with storage_errors(out):
            if (folder / MOVING).is_file():
                say(f"{out} holds an earlier export, which was killed before it had moved all files")
                move(folder, out)
            remove_tree(folder)
    return min((path.name for path in out.iterdir()), default=None)
