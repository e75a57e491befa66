"""Copies of data sets that are read over a network: the rows of an `hf:` data set, as local files in parts.

After each part the place in the stream is recorded, so that an interrupted copy continues there.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

from gptcli import strict_json
from gptcli.console import Progress, say
from gptcli.data.cache import is_whole, only_writer, seal, unfinished
from gptcli.data.fields import FieldSelection
from gptcli.errors import DataError
from gptcli.manifest import MANIFEST_NAME, dump_with_checksum, load_with_checksum
from gptcli.storage import HUGE, atomic_file, publish, read_regular, sha256_file, storage_errors, write_atomic

PART_BYTES = 1 << 26
"""Bytes of text in a part; at most this much is fetched again after an interruption."""
INDEX = "parts.json"


def spool_hugging_face(source: str, selection: FieldSelection, spool: Path) -> list[Path]:
    """Copy the fields of `selection` of a data set into compressed .jsonl files, or use an existing copy.

    Raises:
        DataError: there is no such data set, config, split or field, or it cannot be reached.
        StorageError: the copy cannot be written.
    """
    is_plain = selection == FieldSelection(text_field=selection.text_field)
    wanted = [source, selection.text_field] if is_plain else [source, *selection]
    key = blake2b(strict_json.dumps(wanted).encode(), digest_size=16).hexdigest()
    entry = spool / f"hf-{key}"
    with only_writer(entry):
        if is_whole(entry):
            day = time.strftime("%Y-%m-%d", time.localtime(entry.stat().st_mtime))
            say(f"{source}: using the copy made on {day}; to fetch it again, delete {entry}")
        else:
            reopen(entry)
            with unfinished(entry) as work, storage_errors(work):
                copy_rows(HubStream(source, selection), work)
                seal(work, entry)
                publish(work, entry)
    return sorted(entry.glob("part-*.jsonl.zst"))


def reopen(entry: Path) -> None:
    """Turn a damaged copy into an unfinished one, so that its parts before the damage are not fetched again."""
    if entry.exists():
        work = entry.with_name(f"{entry.name}.work")
        shutil.rmtree(work, ignore_errors=True)
        entry.rename(work)
        (work / MANIFEST_NAME).unlink(missing_ok=True)


class HubStream:
    """The rows of `hf:NAME[:config][@split]` with the fields of `selection`; the split is `train` unless named."""

    def __init__(self, source: str, selection: FieldSelection) -> None:
        self.source, self.selection, self.number = source, selection, 0
        self.rows: Any = None

    def open(self, state: dict[str, Any] | None, number: int) -> None:
        """Begin, or continue after `number` rows, where `state()` was `state`."""
        import datasets

        name, _, split = self.source.removeprefix("hf:").partition("@")
        name, _, config = name.partition(":")
        self.number = number
        try:
            self.rows = datasets.load_dataset(name, config or None, split=split or "train", streaming=True)
            if state is not None:
                self.rows.load_state_dict(state)
        except Exception as error:  # datasets raises whatever its readers and its transport raise
            raise self.read_error(error) from error

    def state(self) -> dict[str, Any]:
        """Return the place in the stream, in a form that JSON can hold."""
        state: dict[str, Any] = self.rows.state_dict()
        return state

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over the rows, with only the fields of the selection."""
        rows = iter(self.rows)
        while True:
            try:
                row = next(rows, None)
            except Exception as error:
                raise self.read_error(error) from error
            if row is None:
                return
            self.number += 1
            fields = self.selection.choose(row, f"row {self.number} of {self.source}")
            yield {field: row[field] for field in fields}

    def read_error(self, error: Exception) -> DataError:
        """Return the error for a data set that cannot be read."""
        return DataError(f"cannot read {self.source}: {error}", "check its name, config and split, and the network")


def copy_rows(stream: HubStream, work: Path) -> None:
    """Write the rows into parts in `work`, after the existing parts that are intact."""
    import zstandard

    parts = finished_parts(work)
    for path in set(work.glob("part-*")) - {work / part["name"] for part in parts}:
        path.unlink()
    stream.open(parts[-1]["state"] if parts else None, parts[-1]["rows"] if parts else 0)
    rows = iter(stream)
    with Progress(stream.source, unit="rows", initial=stream.number) as progress:
        first = next(rows, None)
        while first is not None or not parts:
            name, written = f"part-{len(parts):05d}.jsonl.zst", 0
            with atomic_file(work / name) as path, zstandard.open(path, "wt", encoding="utf-8") as file:
                for row in itertools.chain([] if first is None else [first], rows):
                    line = strict_json.dumps(row) + "\n"
                    file.write(line)
                    written += len(line)
                    progress.update()
                    if written >= PART_BYTES:
                        break
            whole = {"name": name, "sha256": sha256_file(work / name), "rows": stream.number, "state": stream.state()}
            parts.append(whole)
            write_atomic(work / INDEX, dump_with_checksum({"parts": parts}))
            first = next(rows, None)


def finished_parts(work: Path) -> list[dict[str, Any]]:
    """Return the intact parts before the first damaged one, and warn of it."""
    path = work / INDEX
    if not work.is_dir():
        return []
    index = load_with_checksum(read_regular(path, HUGE)) if path.is_file() else None
    if index is None:
        if any(work.glob("part-*")):
            say(f"warning: {path} is missing or damaged; all parts are fetched again")
        return []

    def is_finished(part: dict[str, Any]) -> bool:
        path = work / part["name"]
        if path.is_file() and sha256_file(path) == part["sha256"]:
            return True
        say(f"warning: {path} is missing or damaged; it and the parts after it are fetched again")
        return False

    return list(itertools.takewhile(is_finished, index["parts"]))
