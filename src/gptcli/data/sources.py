"""What the user names as a corpus becomes an ordered list of local files.

Files, directories and globs are taken as they lie. What can be read only once (stdin) or only over a network (`hf:`)
is first copied into the cache, since a corpus is read more than once: to split it, to learn a tokenizer, to encode it.
Knows where text lies, not what is in it; what is in a file is read by formats.py and rows.py.
"""

from __future__ import annotations

import glob
import hashlib
import os
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from gptcli.data.compression import COMPRESSIONS
from gptcli.data.config import DataConfig
from gptcli.data.file_formats import AUTO, SourceFile, format_by_ending, has_row_ending
from gptcli.data.layouts import laid_out_files, split_off
from gptcli.data.streams import spool_hugging_face
from gptcli.errors import DataError
from gptcli.storage import clean_temporaries, storage_errors, temporary_name

TEXT_EXTENSIONS = """
    .txt .text .md .markdown .rst .adoc .org .tex .log .html .htm .xml .yaml .yml .toml .ini .cfg
    .py .pyi .ipynb .c .h .cc .cpp .hpp .cu .rs .go .java .kt .scala .swift .js .jsx .ts .tsx .css .sh .bash .sql
    .rb .pl .php .lua .r .jl .hs .ml .clj .ex .erl .lisp .el .f90 .m .cs .vb .zig .nim .srt .vtt
"""
"""Endings that a directory is searched for, beside those of row files. A file named explicitly may have any."""

STDLIB_SKIPPED = frozenset({"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"})
"""Folders that are no part of `python:stdlib`: other people's packages, and the test suite, which many systems leave
out, so that the corpus is nearly the same everywhere."""


def find_files(sources: Sequence[str], config: DataConfig, cache_dir: Path) -> list[SourceFile]:
    """The files of `sources`, in the order given and sorted within each; a file named twice is taken once.

    Raises:
        DataError: a source does not exist, or holds no file that could be text.
    """
    found: dict[Path, SourceFile] = {}
    for source in sources:
        for file in files_of(source, config, cache_dir):
            found.setdefault(file.path.resolve(), file)
    return list(found.values())


def files_of(source: str, config: DataConfig, cache_dir: Path) -> list[SourceFile]:
    if source == "-":
        return [named(spool_stream(sys.stdin.buffer, cache_dir), "-", config)]
    if source.startswith("hf:"):
        paths = spool_hugging_face(source, config.text_field, spool_directory(cache_dir))
        several = len(paths) > 1
        names = [f"{source} part {n}" if several else source for n in range(1, len(paths) + 1)]
        return [SourceFile(path, name, "jsonl") for path, name in zip(paths, names, strict=True)]
    if source == "python:stdlib":
        return [SourceFile(path, str(path)) for path in standard_library()]
    with storage_errors(source, "read"):
        path = Path(source).expanduser()
        if is_endless(path):
            raise DataError(f"{source} is a device, which has no end", "name a file or a pipe")
        if path.exists() and not path.is_dir() and not path.is_file():  # a pipe, as in `gptcli train <(zcat books)`
            with path.open("rb") as stream:
                return [named(spool_stream(stream, cache_dir), source, config)]
        laid_out = laid_out_files(*split_off(path), source)
        if laid_out is not None:
            return [SourceFile(file, str(file), format_by_ending(file)) for file in laid_out]
        matches = [path] if path.exists() else [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    files = [file for match in matches for file in (text_files_under(match) if match.is_dir() else [match])]
    if not files:
        raise DataError(
            f"there is no corpus {source}",
            "no file matches the pattern" if glob.has_magic(source) else "check the path",
        )
    return [named(file, str(file), config) for file in files]


def named(path: Path, name: str, config: DataConfig) -> SourceFile:
    """A file that the user named, with its format: as `data.format` says, else by its ending."""
    return SourceFile(path, name, format_by_ending(path) if config.format == AUTO else config.format)


def is_endless(path: Path) -> bool:
    """Whether the path is a device such as /dev/zero, not a terminal."""
    if not path.is_char_device():
        return False
    with path.open("rb") as device:
        return not device.isatty()


def text_files_under(directory: Path) -> list[Path]:
    """The files under `directory` whose ending says that they hold text, sorted; hidden ones are skipped."""
    files = []
    with storage_errors(directory, "read"):
        for folder, subfolders, names in os.walk(directory, onerror=raise_error):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            paths = (Path(folder, name) for name in sorted(names) if not name.startswith("."))
            files.extend(path for path in paths if has_text_ending(path))
    if not files:
        raise DataError(
            f"{directory} holds no text file (.txt, .md, .py, .jsonl, .csv, .parquet and the like, also .gz or .zst)",
            "name the files themselves",
        )
    return files


def raise_error(error: OSError) -> None:
    raise error


def has_text_ending(path: Path) -> bool:
    plain = path.with_suffix("") if path.suffix in COMPRESSIONS else path
    return plain.suffix.lower() in TEXT_EXTENSIONS.split() or has_row_ending(path)


def standard_library() -> list[Path]:
    """The .py files of the running interpreter's standard library that are UTF-8, sorted.

    Build settings (`_sysconfigdata*`), which differ from machine to machine, are left out with the test suite.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if name not in STDLIB_SKIPPED)
        files.extend(Path(folder, n) for n in sorted(names) if n.endswith(".py") and not n.startswith("_sysconfigdata"))
    files = [path for path in files if is_utf8(path)]
    if not files:
        raise DataError(f"{root} holds no Python source", "this interpreter ships its library compiled: use another")
    return files


def is_utf8(path: Path) -> bool:
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError:
        return False
    return True


def spool_stream(stream: BinaryIO, cache_dir: Path) -> Path:
    """Copy what can be read only once to a file named by its content: the same text once more is the same file."""
    directory = spool_directory(cache_dir)
    temporary = temporary_name(directory / "stream")
    digest = hashlib.blake2b(digest_size=16)
    with storage_errors(temporary):
        try:
            with temporary.open("wb") as file:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
                    file.write(chunk)
            path = directory / f"stream-{digest.hexdigest()}.txt"
            if not path.exists():
                temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def spool_directory(cache_dir: Path) -> Path:
    directory = cache_dir / "spool"
    with storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        clean_temporaries(directory)
    return directory
