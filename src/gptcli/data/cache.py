"""The cache of prepared data, which several processes may use at the same time.

    spool/       copies of sources that can be read only once: stdin, hf: data sets
    scans/       the results of reading a corpus, by the files' paths, sizes and times
    tokenizers/  learnt tokenizers, by the training text and the tokenizer's settings
    excerpts/    documents drawn from a corpus that is too large to be read whole
    tokens/      token shards of both splits, by their text and the tokenizer
    references/  the nats of preferences under the model that a training with DPO starts from
    copies/      suffix arrays of training tokens, with the tokens in the order of the corpus
    trials/      a file for each tokenizer of others that has passed its trial (`gptcli.tokenizer.untrusted`)

Every other entry is a directory with a manifest (`gptcli.manifest`), which is verified at the entry's first use in a
process, before anything in it is used; a damaged entry is made again. It also holds its own name, so that an entry that
was moved or copied to the place of another one is found as well. An entry that is made in parts has them in
NAME.work beside it until it is whole, so that finished parts are not made again. Everything here can be deleted at any
time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from gptcli import strict_json
from gptcli.console import Progress, say, shell_word
from gptcli.data.archives import FileStatus, file_status
from gptcli.errors import CheckpointError, DataError, StorageError
from gptcli.manifest import MANIFEST_NAME, Manifest, read_manifest, record
from gptcli.storage import (
    atomic_directory,
    clean_temporaries,
    make_directory,
    open_nofollow,
    read_regular,
    refuse_special_file,
    storage_errors,
    write_file,
)

CACHE_VERSION = 6
"""A part of every key: raise it when the form or the meaning of an entry changes."""

NAME_FILE = "entry-name"
"""The file that holds the name of the entry and that of its directory."""
SHOWN_BYTES = 1 << 30


def cache_key(*parts: Any) -> str:
    """Return a name made of everything that decides the content of an entry (values that JSON can write)."""
    text = strict_json.dumps([CACHE_VERSION, *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@contextmanager
def only_writer(entry: Path) -> Iterator[None]:
    """Lock `entry` for writing; a second process waits here and then finds the entry that the first one has written.

    The lock ends with the process that holds it, however that ends. Not every file system shows it to other machines,
    so the temporary files of other machines are left alone until they are old.

    Raises:
        StorageError: The entry cannot be written, or a file of it is a link.
    """
    make_directory(entry.parent)
    lock = entry.with_name(f"{entry.name}.lock")
    with storage_errors(entry), os.fdopen(open_nofollow(lock, os.O_RDWR | os.O_CREAT), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is writing {entry}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        refuse_special_file(entry)
        clean_temporaries(entry.parent, entry.name, excluded="this machine")
        clean_temporaries(entry.parent)
        yield


class FileChanged(DataError):
    """A file of the corpus has changed since its documents were indexed, so that the index is of no use."""


@contextmanager
def unfinished(entry: Path) -> Iterator[Path]:
    """Yield the directory for finished parts of an entry that is being made, and delete it once the entry is whole.

    The lock of the entry must be held. Half-written files of a process that no longer runs are removed. The parts are
    deleted if a file has changed.

    Raises:
        StorageError: The directory is a link, or holds one.
    """
    work = entry.with_name(f"{entry.name}.work")
    refuse_special_file(work)
    if work.is_dir():
        say(f"going on with what an earlier command has finished of {entry}")
        for path in work.rglob("*"):
            refuse_special_file(path)
        for folder in (work, *work.iterdir()):
            if folder.is_dir():
                clean_temporaries(folder, excluded="this machine")
    try:
        yield work
    except FileChanged:
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)


@contextmanager
def new_entry(entry: Path) -> Iterator[Path]:
    """Yield a temporary directory that becomes the entry, with a manifest of its files, when the block ends well.

    An entry that exists already is replaced.
    """
    with atomic_directory(entry) as folder:
        yield folder
        manifest = seal(folder, entry)
    VERIFIED[entry, WHOLE] = versions_of(entry, sorted(manifest.files))  # each was read back to be listed


def seal(folder: Path, entry: Path) -> Manifest:
    """Write the manifest of a directory that is to become the entry, and the entry's name."""
    (folder / NAME_FILE).unlink(missing_ok=True)  # of an entry from which the files were taken
    write_file(folder / NAME_FILE, name_of(entry))
    return record(folder, [path.name for path in folder.iterdir()])


def name_of(entry: Path) -> str:
    """Return the content of the NAME_FILE of an entry."""
    return f"{entry.parent.name}/{entry.name}\n"


class VerifiedShare(NamedTuple):
    """The share of the files of an entry that process `number` of `of` verifies: every `of`-th one."""

    number: int = 0
    of: int = 1


WHOLE = VerifiedShare()
VERIFIED: dict[tuple[Path, VerifiedShare], tuple[FileStatus | None, ...]] = {}
"""The entries that this process has verified, with the versions of their files."""


def damage_of(entry: Path, share: VerifiedShare = WHOLE) -> str:
    """Describe the first damage to a directory that `new_entry` made; empty if all files are as they were written.

    The files are read at the first call, and again only if one of them has been written to since.
    """
    try:
        manifest = read_manifest(entry)
        if not manifest.is_there:
            return f"{entry / MANIFEST_NAME} is missing"
        names = sorted(manifest.files)[share.number :: share.of]
        versions = versions_of(entry, names)
        if VERIFIED.get((entry, share)) == versions:
            return ""
        with verifying(sum(manifest.files[name].bytes for name in names)) as count:
            for name, damage in manifest.damages(names):
                if damage:
                    return f"{entry / name} {damage}"
                count(manifest.files[name].bytes)
    except CheckpointError as error:
        return error.message
    except StorageError as error:
        return str(error)
    VERIFIED[entry, share] = versions
    return ""


@contextmanager
def verifying(size: int) -> Iterator[Callable[[int], object]]:
    """Yield a function to call with each number of bytes that was read; it shows progress if `size` is large."""
    if size < SHOWN_BYTES:
        yield lambda count: None
    else:
        with Progress("verify", size, unit="B", scale=True) as progress:
            yield progress.update


def displacement_of(entry: Path) -> str:
    """Describe an undamaged entry that was made under another name; empty for the right one."""
    path = entry / NAME_FILE
    with storage_errors(path, "read"):
        named = read_regular(path).decode(errors="replace") if path.is_file() else ""
    return "" if named == name_of(entry) else f"{entry} holds another entry, {named.strip() or 'whose name is unknown'}"


def versions_of(entry: Path, names: Iterable[str]) -> tuple[FileStatus | None, ...]:
    """Return the present versions of the manifest and of these files of an entry; None for a file that is missing."""

    def version(path: Path) -> FileStatus | None:
        try:
            return file_status(path)
        except OSError:
            return None

    return tuple(version(entry / name) for name in (MANIFEST_NAME, *names))


def is_whole(entry: Path) -> bool:
    """Return whether an entry exists and every file in it is as it was written; warn if one is damaged."""
    if not entry.exists():
        return False
    damage = damage_of(entry) or displacement_of(entry)
    if damage:
        say(f"warning: {damage}; it is made again")
    return not damage


def require_whole(entry: Path, share: VerifiedShare = WHOLE) -> None:
    """Raise a DataError that names a damaged file of an entry, or another entry in its place.

    It is for places where the entry cannot be made again.
    """
    require_undamaged(entry, share)
    displacement = displacement_of(entry)
    if displacement:
        raise unusable(entry, displacement)


def require_undamaged(entry: Path, share: VerifiedShare = WHOLE) -> None:
    """Raise a DataError that names a damaged file of an entry, which may be a copy in another place."""
    damage = damage_of(entry, share)
    if damage:
        raise unusable(entry, damage)


def unusable(entry: Path, damage: str) -> DataError:
    """Return the error for a damaged entry."""
    return DataError(damage, f"delete {shell_word(entry)} and run the command that prepared the data again")
