"""Reading the records of runs. Whatever cannot be read of a run is damage in words, not an error.

Sizes of files are compared with the manifest; `gptcli checkpoint verify` reads every byte.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gptcli import strict_json
from gptcli.checkpoint.lock import is_locked
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.errors import CheckpointError, GptcliError, StorageError
from gptcli.manifest import read_manifest
from gptcli.report.runs.record import Json, RunRecord
from gptcli.storage import LARGE, open_regular, read_regular, storage_errors

TAIL_BYTES = 1 << 16
"""The end of metrics.jsonl that is read: some hundred lines."""
MOST_LEVELS = 4
"""Folders inside a folder that are searched for runs."""


def read_record(path: Path) -> RunRecord:
    """Return the record of a run.

    Raises:
        CheckpointError: there is no run.
    """
    run = RunDirectory.open(path)
    damages: list[str] = []
    config = read_table(run.config_path, damages, tomllib.loads)
    data, summary = (read_table(run.path / name, damages, parse_object) for name in ("data.json", "summary.json"))
    first, last, evaluated = read_ends(run.metrics_path, damages)
    changed_sizes(run.path, damages)
    is_running = is_locked(run.lock_path)
    return RunRecord(run.path, is_running, tuple(damages), config, data, summary, first, last, evaluated)


def find_runs(folders: Sequence[Path]) -> Iterator[Path]:
    """Yield the runs among the folders and inside of them, sorted by name; a run inside of a run is none.

    Raises:
        CheckpointError: a folder does not exist.
        StorageError: it cannot be read.
    """
    for folder in folders:
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is not a directory", "name a run, or a folder with runs")
        yield from runs_below(folder, MOST_LEVELS)


def runs_below(folder: Path, levels: int) -> Iterator[Path]:
    """Yield a folder if it is a run, and otherwise the runs so many levels below it."""
    if RunDirectory.is_run(folder):
        yield folder
        return
    if levels == 0:
        return
    with storage_errors(folder, "read"):
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    for name in names:
        if not name.startswith("."):
            yield from runs_below(folder / name, levels - 1)


def read_table(path: Path, damages: list[str], parse: Callable[[str], Json]) -> Json:
    """Return the table in a file, empty without one; what is wrong with it is added to `damages`."""
    try:
        with storage_errors(path, "read"):
            if not path.exists():
                return {}
            return parse(read_regular(path, LARGE).decode())
    except GptcliError as error:
        damages.append(str(error))
    except ValueError:
        damages.append(f"{path.name} is damaged")
    return {}


def parse_object(text: str) -> Json:
    """Return a JSON object.

    Raises:
        ValueError: the text is none.
    """
    found = strict_json.parse(text)
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def read_ends(path: Path, damages: list[str]) -> tuple[Json, Json, Json]:
    """Return the first and the last line of metrics.jsonl, and the newest near its end with a validation loss.

    A torn last line is one that is still being written, and left out.
    """
    try:
        with storage_errors(path, "read"):
            if not path.exists():
                return {}, {}, {}
            with open_regular(path) as file:
                head = file.readline(TAIL_BYTES)
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - TAIL_BYTES))
                tail = file.read()
    except StorageError as error:
        damages.append(str(error))
        return {}, {}, {}
    lines = tail[: tail.rfind(b"\n") + 1].splitlines()
    if size > TAIL_BYTES:
        lines = lines[1:]  # of the first one only the end was read
    try:
        first = parse_object(head.decode()) if head.endswith(b"\n") else {}
        last = parse_object(lines[-1].decode()) if lines else {}
        has_loss = (line for line in reversed(lines) if b'"val_loss": null' not in line and b'"val_loss": ' in line)
        return first, last, parse_object(next(has_loss, b"{}").decode())
    except ValueError:
        damages.append(f"{path.name} is damaged")
        return {}, {}, {}


def changed_sizes(folder: Path, damages: list[str]) -> None:
    """Add the listed files of a run that are missing or have another size than was recorded to `damages`."""
    try:
        manifest = read_manifest(folder)
    except GptcliError as error:
        damages.append(error.message.removeprefix(f"{folder}/"))
        return
    for name, entry in (*manifest.files.items(), *manifest.logs.items()):
        try:
            size = (folder / name).stat().st_size
        except OSError:
            damages.append(f"{name} is missing")
            continue
        if size < entry.bytes or (size > entry.bytes and name in manifest.files):
            damages.append(f"{name} is damaged: {size:,} bytes, should be {entry.bytes:,}")
