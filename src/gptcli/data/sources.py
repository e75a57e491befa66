"""Sources of a corpus: the names that the user gives become an ordered list of local files.

Files, directories and globs are read in place. A source that can be read only once (stdin) or only over a network
(`hf:`) is first copied into the cache, since a corpus is read more than once: to split it, to train a tokenizer, to
encode it. Only the places of files are determined here; decoding.py and rows.py read their content.
"""

from __future__ import annotations

import glob
import hashlib
import os
import sys
import sysconfig
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from gptcli.console import say
from gptcli.data.archives import is_archive
from gptcli.data.config import DataConfig
from gptcli.data.fields import FieldSelection
from gptcli.data.file_formats import AUTO, SourceFile
from gptcli.data.folders import FileFilter, Walk, walk_archive, walk_folder, walk_glob
from gptcli.data.layouts import laid_out_files, split_off
from gptcli.data.left_out import LeftOut, in_words
from gptcli.data.recognize import file_format, hint_of_rows, stream_format
from gptcli.data.streams import spool_hugging_face
from gptcli.data.token_files import is_token_file
from gptcli.errors import DataError
from gptcli.storage import (
    clean_temporaries,
    create_file,
    expanded,
    make_directory,
    open_regular,
    publish,
    read_regular,
    storage_errors,
    temporary_name,
)

STDLIB_SKIPPED = frozenset({"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"})
"""Folders that are not part of `python:stdlib`: other people's packages, and the test suite, which many systems omit.
Without them the corpus is nearly the same everywhere."""


DIGEST_BYTES = 16
"""Bytes of the hash that names the copy of a stream."""
FORMAT_ENDINGS = {"text": "txt"}
"""Endings of copies of streams by format, where the ending is not the format's name."""


class FoundFiles(NamedTuple):
    """The files of a corpus in order, and what is left out of its folders."""

    files: list[SourceFile]
    left_out: list[LeftOut]


def find_files(sources: Sequence[str], config: DataConfig, cache_dir: Path) -> FoundFiles:
    """Return the files of `sources`, in the order given and sorted within each; a file named twice is read once.

    A file that is named by itself must be readable, even if it is in a folder that is also named.

    Raises:
        DataError: a source does not exist, or holds no file that could be text.
    """
    found: dict[str, SourceFile] = {}
    left_out: dict[str, LeftOut] = {}
    for source in sources:
        files, others = files_of(source, config, cache_dir)
        for file in files:
            known = found.setdefault(os.path.realpath(file.path), file)
            if known.is_optional and not file.is_optional:
                found[os.path.realpath(file.path)] = known._replace(is_optional=False)
        left_out |= {one.name: one for one in others}
    read = {file.name for file in found.values()}  # a file that one source leaves out may be named by another
    return FoundFiles(list(found.values()), [one for name, one in left_out.items() if name not in read])


def files_of(source: str, config: DataConfig, cache_dir: Path) -> FoundFiles:
    """Return the files of one source."""
    if source == "-":
        return named(spool(source, config, cache_dir), source, config)
    if source.startswith("hf:"):
        paths = spool_hugging_face(source, FieldSelection.in_rows_of(config), spool_directory(cache_dir))
        several = len(paths) > 1
        names = [f"{source} part {n}" if several else source for n in range(1, len(paths) + 1)]
        return FoundFiles([SourceFile(path, name, "jsonl") for path, name in zip(paths, names, strict=True)], [])
    if source == "python:stdlib":
        return FoundFiles([SourceFile(path, str(path)) for path in standard_library()], [])
    with storage_errors(source, "read"):
        path = expanded(source)
        if is_endless(path):
            raise DataError(f"{source} is a device, which has no end", "name a file or a pipe")
        if is_stream(source):
            return named(spool(source, config, cache_dir), source, config)
        laid_out = laid_out_files(*split_off(path), source)
        if laid_out is not None:
            by_ending = config.model_copy(update={"format": AUTO})
            return FoundFiles([SourceFile(file, str(file), file_format(file, by_ending)) for file in laid_out], [])
        if path.is_file():
            found = named(path, str(path), config)
            if found.files[0].format == "text" and not is_token_file(path.name):
                hint_of_rows(path, config)
            return found
        if path.is_dir():
            return in_folder(walk_folder(path, FileFilter(config.include, config.exclude)), str(path), config)
        if path.is_symlink():
            raise DataError(f"{source} is a link to nothing, or to itself", "name the file that was meant")
        if glob.has_magic(source):
            walk = walk_glob(str(path), config.include, config.exclude)
            if not walk.files and not walk.left_out:
                raise DataError(f"there is no corpus {source}: no file matches the pattern", "check the pattern")
            return in_folder(walk, source, config)
    raise DataError(f"there is no corpus {source}", "check the path")


def named(path: Path, name: str, config: DataConfig) -> FoundFiles:
    """Return a file that the user named, or the files of an archive; `data.format` or else the ending gives the
    format.
    """
    if path.stat().st_size and is_archive(path):
        walk = walk_archive(path, FileFilter(config.include, config.exclude))
        return in_folder(walk, name, config)
    return FoundFiles([SourceFile(path, name, file_format(path, config))], [])


def in_folder(walk: Walk, source: str, config: DataConfig) -> FoundFiles:
    """Return the files of a folder, an archive or a glob, which may be left out if they cannot be read.

    Raises:
        DataError: there are none.
    """
    if not walk.files:
        reasons = f": it holds {in_words(walk.left_out)}" if walk.left_out else ""
        raise DataError(
            f"{source} names no file that could be text{reasons}",
            "name the files themselves, or say with --set data.include='*.ENDING' which to read",
        )
    files = [SourceFile(path, str(path), file_format(path, config), is_optional=True) for path in walk.files]
    return FoundFiles(files, walk.left_out)


def is_endless(path: Path) -> bool:
    """Return whether the path is a device such as /dev/zero, not a terminal."""
    if not path.is_char_device():
        return False
    with path.open("rb") as device:
        return not device.isatty()


def standard_library() -> list[Path]:
    """Return the .py files of the running interpreter's standard library that are UTF-8, sorted.

    Build settings (`_sysconfigdata*`), which differ between machines, are left out with the test suite.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    files: list[Path] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if name not in STDLIB_SKIPPED)
        files.extend(Path(folder, n) for n in sorted(names) if n.endswith(".py") and not n.startswith("_sysconfigdata"))
    files = [path for path in files if is_utf8(path)]
    if not files:
        raise DataError(f"{root} holds no Python source", "use a Python that ships the sources of its library")
    return files


def is_utf8(path: Path) -> bool:
    """Return whether a file is UTF-8."""
    try:
        read_regular(path).decode()
    except UnicodeDecodeError:
        return False
    return True


def is_stream(source: str) -> bool:
    """Return whether a source can be read only once: stdin, or a pipe as in `gptcli train <(zcat books)`."""
    path = expanded(source)
    return source == "-" or (path.exists() and not path.is_file() and not path.is_dir())


def spool(source: str, config: DataConfig, cache_dir: Path) -> Path:
    """Return a copy of a source that can be read only once; its ending gives the format."""
    if source == "-":
        return spool_stream(sys.stdin.buffer, source, config, cache_dir)
    with expanded(source).open("rb") as stream:
        return spool_stream(stream, source, config, cache_dir)


def spool_stream(stream: BinaryIO, source: str, config: DataConfig, cache_dir: Path) -> Path:
    """Copy a stream that can be read only once to a file named by its content: the same text always gives the same
    file.

    An existing copy is kept if its content matches its name, and replaced otherwise.
    """
    directory = spool_directory(cache_dir)
    temporary = temporary_name(directory / "stream")
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with storage_errors(temporary):
        try:
            with create_file(temporary) as file:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
                    file.write(chunk)
            ending = FORMAT_ENDINGS.get(found := stream_format(temporary, source, config), found)
            path = directory / f"stream-{digest.hexdigest()}.{ending}"
            if not is_copy(path, digest.hexdigest()):
                publish(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def is_copy(path: Path, digest: str) -> bool:
    """Return whether a copy of a stream exists with this content, and warn if it is damaged."""
    if not path.exists():
        return False
    with open_regular(path) as file:
        is_same = hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=DIGEST_BYTES)).hexdigest() == digest
    if not is_same:
        say(f"warning: {path} is damaged: its content does not match its name; it is written again")
    return is_same


def spool_directory(cache_dir: Path) -> Path:
    """Return the folder for copies, without abandoned temporary files."""
    directory = cache_dir / "spool"
    make_directory(directory)
    clean_temporaries(directory)
    return directory
