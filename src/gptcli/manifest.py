"""The manifest of a run or model directory: size and SHA-256 of every file that a later command uses.

It is written after the files that it lists, and it can be verified by itself: its last entry is the SHA-256 of the
others, and it is accepted only if its bytes are exactly those that this module would have written. Before a listed file
is replaced its entry is withdrawn, so that a process that is killed in between leaves an unlisted file, never one that
seems damaged. A log grows, so only its beginning is listed. Checkpoints have manifests of their own.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from gptcli import strict_json
from gptcli.console import shell_word
from gptcli.errors import CheckpointError, StorageError
from gptcli.storage import TEMPORARY_MARK, UnsuitableFileError, open_regular, read_regular, storage_errors, write_atomic

MANIFEST_NAME = "gptcli-manifest.json"
FORMAT = "files of gptcli"
VERSION = 1
MAX_BYTES = 64 * 2**20
CHUNK = 1 << 20
MAX_THREADS = 16
NEVER = threading.Event()

Item = TypeVar("Item")
Result = TypeVar("Result")


class Entry(NamedTuple):
    """Size in bytes and hex SHA-256 of a file, or of the beginning of a log."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The files that a directory's manifest lists, by path below the directory; empty if there is no manifest."""

    directory: Path
    files: Mapping[str, Entry] = field(default_factory=dict)
    logs: Mapping[str, Entry] = field(default_factory=dict)
    """Entries of files that only grow: the size and the hash of their beginning."""
    is_there: bool = False

    def render(self) -> str:
        """Return the text of the manifest file."""
        fields: dict[str, Any] = {"format": FORMAT, "version": VERSION}
        for kind in ("files", "logs"):
            entries: Mapping[str, Entry] = getattr(self, kind)
            fields[kind] = {name: entry._asdict() for name, entry in sorted(entries.items())}
        return dump_with_checksum(fields)

    def damage(self, name: str, stop: threading.Event = NEVER) -> str:
        """Return a description of the damage to a listed file; empty if it is intact or once `stop` is set."""
        path, is_log = self.directory / name, name in self.logs
        entry = self.logs[name] if is_log else self.files[name]
        try:
            with storage_errors(path, "read"):
                if not path.is_file():
                    return "is missing"
                size = path.stat().st_size
                if size < entry.bytes or (size > entry.bytes and not is_log):
                    return f"is damaged: {size:,} bytes, should be {entry.bytes:,}"
                if sha256_of_part(path, 0, entry.bytes, stop) != entry.sha256 and not stop.is_set():
                    return "is damaged: its SHA-256 is not the one that was recorded"
        except StorageError as error:
            return str(error)
        return ""

    def damages(self, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Iterate over (name, `damage` of it) of these files, which several threads read."""
        return zip(names, in_threads(self.damage, names), strict=True)

    def below(self, names: Iterable[str]) -> list[str]:
        """Return the listed files and logs with these names, which may be those of folders."""
        wanted = tuple(names)
        return [
            name
            for name in (*self.files, *self.logs)
            if name in wanted or any(name.startswith(f"{folder}/") for folder in wanted)
        ]


def dump_with_checksum(fields: Mapping[str, Any]) -> str:
    """Return the JSON text of a table, with the SHA-256 of all its entries as the last one."""
    digest = hashlib.sha256(strict_json.dumps(fields, ensure_ascii=False).encode()).hexdigest()
    return strict_json.dumps({**fields, "sha256": digest}, ensure_ascii=False, indent=2) + "\n"


def load_with_checksum(text: bytes) -> dict[str, Any] | None:
    """Return the table for which `dump_with_checksum` gave this text, or None if any byte differs."""
    try:
        fields = strict_json.parse(text)
        del fields["sha256"]
        return fields if dump_with_checksum(fields).encode() == text else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of a directory; an empty one if it has none.

    Raises:
        CheckpointError: it is damaged, or was written by a newer version.
    """
    path = directory / MANIFEST_NAME
    if not path.exists():
        return Manifest(directory)
    with storage_errors(path, "read"):
        try:
            text = read_regular(path, MAX_BYTES)
        except UnsuitableFileError:
            text = b""  # not a manifest, so that it counts as damaged
    try:
        fields = strict_json.parse(text)
        if fields["format"] == FORMAT and fields["version"] > VERSION:
            raise CheckpointError(f"{path} was written by a newer gptcli", "update gptcli to read it")
        files, logs = ({name: Entry(**entry) for name, entry in fields[kind].items()} for kind in ("files", "logs"))
        manifest = Manifest(directory, files, logs, is_there=True)
        is_whole = manifest.render().encode() == text
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        is_whole = False
    if not is_whole or not all(is_inside(name) for name in (*manifest.files, *manifest.logs)):
        raise CheckpointError(
            f"{path} is damaged",
            f"check the other files, and list them again: {accept_command(directory, MANIFEST_NAME)}",
        )
    return manifest


def is_inside(name: str) -> bool:
    """Return whether the path of an entry leads to a file below the directory."""
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts and name != MANIFEST_NAME


def accept_command(directory: Path, name: str) -> str:
    """Return the command that accepts a file as it is now."""
    return f"gptcli checkpoint verify {shell_word(directory)} --accept {shell_word(name)}"


def require_unchanged(directory: Path, *names: str) -> None:
    """Compare files of a directory, or all files below a folder in it, with its manifest before they are used.

    Files that it does not list, and directories without a manifest, are not checked.

    Raises:
        CheckpointError: a file is missing or is not as it was written; the message names it, and the remedy accepts the
            change.
    """
    manifest = read_manifest(directory)
    for name in manifest.below(names):
        damage = manifest.damage(name)
        if damage and not was_replaced(manifest, name):
            raise changed_file_error(manifest, name, damage)


def was_replaced(manifest: Manifest, name: str) -> bool:
    """Return whether a training has replaced the file since the manifest was read, so that it is intact after all."""
    now = read_manifest(manifest.directory)
    return now.below([name]) == [] or (now != manifest and not now.damage(name))


def changed_file_error(manifest: Manifest, name: str, damage: str) -> CheckpointError:
    """Return the error for a file that is not as it was written."""
    return CheckpointError(
        f"{manifest.directory / name} {damage}",
        "restore it from a copy or, if it was changed on purpose, accept it: "
        f"{accept_command(manifest.directory, name)}",
    )


def sha256_of_part(path: Path, start: int, size: int, stop: threading.Event = NEVER) -> str:
    """Return the hex SHA-256 of `size` bytes of a file from byte `start` on, or of fewer once `stop` is set."""
    digest, left = hashlib.sha256(), size
    with open_regular(path) as file:
        file.seek(start)
        while left and not stop.is_set() and (chunk := file.read(min(CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()


def in_threads(function: Callable[[Item, threading.Event], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Iterate over function(item, stop) of each item, in order, computed by as many threads as there are cores.

    Reading and hashing release the interpreter's lock. `stop` is set when the caller takes no more results, because a
    signal or an exception has interrupted it; the functions should then return early.
    """
    stop = threading.Event()
    executor = ThreadPoolExecutor(max(1, min(usable_cores(), MAX_THREADS, len(items))))
    try:
        yield from executor.map(function, items, [stop] * len(items))
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def record(directory: Path, names: Iterable[str], logs: Iterable[str] = ()) -> Manifest:
    """List files, whole folders and logs as they are now, and drop entries of these names whose file is gone.

    Call it when the files are whole. Logs are flushed to the disk first, so that the manifest is never ahead of them.

    Raises:
        StorageError: a file cannot be read, or the manifest cannot be written.
        CheckpointError: the present manifest is damaged.
    """
    names, logs = tuple(names), tuple(logs)
    manifest = read_manifest(directory)
    files, begun = without(manifest, (*names, *logs))
    with storage_errors(directory, "read"):
        found = [path for name in names for path in files_below(directory, name)]
        files |= zip(found, in_threads(lambda path, stop: entry_of(directory / path, stop), found), strict=True)
        begun |= {
            name: log_entry(directory / name, manifest.logs.get(name)) for name in logs if (directory / name).is_file()
        }
    return write(Manifest(directory, files, begun, is_there=True), manifest)


def record_new(directory: Path, names: Iterable[str]) -> None:
    """List those files and folders of which nothing is listed yet.

    Raises:
        StorageError: a file cannot be read, or the manifest cannot be written.
        CheckpointError: the present manifest is damaged.
    """
    manifest = read_manifest(directory)
    record(directory, [name for name in names if not manifest.below([name])])


def withdraw(directory: Path, names: Iterable[str]) -> Manifest:
    """Remove files, folders and logs from the list, before they are replaced.

    Raises:
        StorageError: the manifest cannot be written.
        CheckpointError: the present manifest is damaged.
    """
    manifest = read_manifest(directory)
    return write(Manifest(directory, *without(manifest, tuple(names)), is_there=manifest.is_there), manifest)


@contextmanager
def replacing(directory: Path, names: Iterable[str], logs: Iterable[str] = ()) -> Iterator[None]:
    """Withdraw files while the block replaces them, and list them as they are at its end."""
    names, logs = tuple(names), tuple(logs)
    withdraw(directory, (*names, *logs))
    yield
    record(directory, names, logs)


def without(manifest: Manifest, names: tuple[str, ...]) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """Return the listed files and logs, except these names and everything below them."""
    gone = set(manifest.below(names))
    files, logs = (
        {name: entry for name, entry in of.items() if name not in gone} for of in (manifest.files, manifest.logs)
    )
    return files, logs


def write(manifest: Manifest, before: Manifest) -> Manifest:
    """Write a manifest if it differs from the one before, and return it."""
    if manifest != before:
        write_atomic(manifest.directory / MANIFEST_NAME, manifest.render())
    return manifest


def files_below(directory: Path, name: str) -> list[str]:
    """Return the path of the file of that name, or of each file in the folder of that name, without half-written
    ones.
    """
    path = directory / name
    if path.is_file():
        return [name]
    found = sorted(path.rglob("*")) if path.is_dir() else []
    return [str(file.relative_to(directory)) for file in found if file.is_file() and TEMPORARY_MARK not in file.name]


def entry_of(path: Path, stop: threading.Event = NEVER) -> Entry:
    """Return the entry for a whole file."""
    size = path.stat().st_size
    return Entry(size, sha256_of_part(path, 0, size, stop))


def log_entry(path: Path, before: Entry | None) -> Entry:
    """Return the entry for the whole lines of a log.

    If the log no longer begins with what was listed, the entry `before` is kept, so that damage is not listed as
    written.
    """
    with open_regular(path) as file:
        os.fsync(file.fileno())
        content = file.read()
    if before is not None and hashlib.sha256(content[: before.bytes]).hexdigest() != before.sha256:
        return before
    whole = content[: content.rfind(b"\n") + 1]
    return Entry(len(whole), hashlib.sha256(whole).hexdigest())
