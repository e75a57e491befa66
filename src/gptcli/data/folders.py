"""The files of a folder: those that are read, and those that are left out and why.

A folder is walked in the order of names, so that the result does not depend on the file system. Linked folders are
followed, each folder once. Only regular files are listed: opening a pipe or a device could wait forever. Only the lists
of archives are opened here.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pathspec import GitIgnoreSpec

from gptcli.data.archives import is_archive, members
from gptcli.data.compression import format_of
from gptcli.data.file_formats import has_row_ending
from gptcli.data.left_out import EXCLUDED, HIDDEN, NOT_INCLUDED, OTHER_ENDING, LeftOut
from gptcli.errors import GptcliError
from gptcli.storage import storage_errors

ENDINGS = """
    .txt .text .md .markdown .rst .adoc .org .tex .log .html .htm .xml .yaml .yml .toml .ini .cfg
    .py .pyi .ipynb .c .h .cc .cpp .hpp .cu .rs .go .java .kt .scala .swift .js .jsx .ts .tsx .css .sh .bash .sql
    .rb .pl .php .lua .r .jl .hs .ml .clj .ex .erl .lisp .el .f90 .m .cs .vb .zig .nim .srt .vtt
    """
TEXT_ENDINGS = frozenset(ENDINGS.split())
"""Endings of files that are read, along with those of rows and files without an ending. A file that the user names, or
that `data.include` matches, may have any."""
ARCHIVE_ENDING = ".zip"
UNMATCHED = "not matched by the glob"


class Walk(NamedTuple):
    """The files of a folder that are to be read, in order, and what is left out."""

    files: list[Path]
    left_out: list[LeftOut]


class FileFilter:
    """The rules that select the files of a folder, by their paths relative to it.

    Patterns are those of .gitignore: one without a slash matches a name at any depth, one with a slash a path below the
    folder, `**` any number of folders, and one that matches a folder matches everything in it.
    """

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = (), only: Sequence[str] = ()) -> None:
        """Compile the patterns. `only` holds the pattern by which the user named the files; others are not even left
        out.
        """
        self.include, self.exclude, self.only = map(GitIgnoreSpec.from_lines, (include, exclude, only))
        dotted = [pattern for pattern in (*include, *only) if is_hidden(pattern)]
        self.hidden = GitIgnoreSpec.from_lines(dotted)
        """Patterns of hidden files: a hidden file is read only where one of these matches."""

    def refuses_folder(self, relative: str) -> str:
        """Return the reason why a folder is not entered; empty if it is."""
        if is_hidden(relative) and not self.hidden.patterns:
            return HIDDEN
        return EXCLUDED if self.exclude.match_file(f"{relative}/") else ""

    def refuses(self, relative: str) -> str:
        """Return the reason why a file is not read; empty if it is."""
        if self.only.patterns and not self.only.match_file(relative):
            return UNMATCHED
        if is_hidden(relative) and not self.hidden.match_file(relative):
            return HIDDEN
        if self.exclude.match_file(relative):
            return EXCLUDED
        if self.include.patterns:
            return "" if self.include.match_file(relative) else NOT_INCLUDED
        is_read = self.only.patterns or has_text_ending(Path(relative))
        return "" if is_read else f"{OTHER_ENDING} {format_of(Path(relative))}"


def is_hidden(relative: str) -> bool:
    """Return whether a path, or a pattern, has a part that begins with a dot."""
    return any(part.startswith(".") and part.strip(".") for part in relative.split("/"))


def has_text_ending(path: Path) -> bool:
    """Return whether the ending of a file, below its compression, is one of text or rows, a number, or missing."""
    ending = format_of(path)
    return ending in TEXT_ENDINGS or not ending or ending[1:].isdigit() or has_row_ending(path)


def walk_folder(folder: Path, rules: FileFilter) -> Walk:
    """Return the files under a folder that the rules select: of each folder first its files and then its subfolders.

    Raises:
        StorageError: the folder itself cannot be read.
    """
    with storage_errors(folder, "read"), os.scandir(folder):
        pass
    walk = Walk([], [])
    entered = {identity(folder): str(folder)}
    for place, subfolders, names in os.walk(
        folder, onerror=lambda error: add_unreadable(error, walk), followlinks=True
    ):
        parent = Path(place)
        subfolders[:] = [name for name in sorted(subfolders) if enters(parent / name, folder, rules, entered, walk)]
        for name in sorted(names):
            add_file(parent / name, folder, rules, walk)
    return walk


def add_unreadable(error: OSError, walk: Walk) -> None:
    """Add a folder that cannot be read to those left out."""
    walk.left_out.append(LeftOut(f"{error.filename}/", error.strerror or str(error)))


def identity(folder: Path) -> tuple[int, int]:
    """Return the device and the inode of a folder, which are the same for all paths of it."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def enters(folder: Path, root: Path, rules: FileFilter, entered: dict[tuple[int, int], str], walk: Walk) -> bool:
    """Return whether a subfolder is walked; otherwise add it to those left out."""
    reason = rules.refuses_folder(folder.relative_to(root).as_posix())
    if not reason:
        try:
            before = entered.setdefault(identity(folder), str(folder))
            above = folder.is_symlink() and Path(os.path.realpath(root)).is_relative_to(os.path.realpath(folder))
        except OSError as error:
            before, above, reason = str(folder), False, error.strerror or str(error)
        if before != str(folder):
            reason = f"the same folder as {before}"
        elif above:
            reason = "a link to a folder that holds this one"
    if reason:
        walk.left_out.append(LeftOut(f"{folder}/", reason))
    return not reason


def add_file(path: Path, root: Path, rules: FileFilter, walk: Walk) -> None:
    """Add a file of the folder `root`, or the files of an archive, to those to be read or to those left out."""
    relative = path.relative_to(root).as_posix()
    reason = irregular(path)
    if not reason and format_of(path) == ARCHIVE_ENDING and is_archive(path):
        reason = rules.refuses_folder(relative)
        if not reason:
            add_members(path, f"{relative}/", rules, walk)
            return
    reason = rules.refuses(relative) or reason
    if reason == UNMATCHED:
        return
    if reason:
        walk.left_out.append(LeftOut(str(path), reason))
    else:
        walk.files.append(path)


def irregular(path: Path) -> str:
    """Return the reason why a path is not a file that can be read; empty if it is one."""
    try:
        if path.is_file():
            return ""
        return "a pipe, a socket or a device" if path.exists() else "a link to nothing, or to itself"
    except OSError as error:
        return error.strerror or str(error)


def add_members(path: Path, prefix: str, rules: FileFilter, walk: Walk) -> None:
    """Add the files of an archive, whose names for the rules are `prefix` and their names in it."""
    try:
        found = members(path, str(path))
    except GptcliError as error:
        walk.left_out.append(LeftOut(str(path), error.message.replace(str(path), "it")))
        return
    for name, refusal in found:
        reason = rules.refuses(prefix + name) or refusal
        if not reason:
            walk.files.append(path / name)
        elif reason != UNMATCHED:
            walk.left_out.append(LeftOut(f"{path}/{name}", reason))


def walk_archive(path: Path, rules: FileFilter) -> Walk:
    """Return the files of an archive that the rules select, by their names in it.

    Raises:
        DataError: it is damaged, or not an archive of files.
    """
    members(path, str(path))
    walk = Walk([], [])
    add_members(path, "", rules, walk)
    return walk


def walk_glob(pattern: str, include: Sequence[str], exclude: Sequence[str]) -> Walk:
    """Return the files that a glob matches, and those of the folders that it matches, in order.

    `**` is expanded by `walk_folder`, since the standard library's follows links in circles.
    """
    parts = Path(pattern).parts
    fixed = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    root, rest = Path(*parts[:fixed]), "/".join(parts[fixed:])
    rules = FileFilter(include, exclude, [f"/{rest}"])
    if "**" in parts[fixed:]:
        return walk_folder(root, rules) if root.is_dir() else Walk([], [])
    walk = Walk([], [])
    for match in map(Path, sorted(glob.glob(pattern))):
        if match.is_dir():
            below = walk_folder(match, FileFilter(include, exclude))
            walk.files.extend(below.files)
            walk.left_out.extend(below.left_out)
        else:
            add_file(match, root, rules, walk)
    return walk
