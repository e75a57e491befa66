"""The table of `gptcli runs`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gptcli.console import duration, quantity, rounded, size
from gptcli.figures import figure
from gptcli.report.runs.reading import find_runs, read_record
from gptcli.report.runs.record import RunRecord

Key = Literal["started", "name", "loss", "bits", "time", "model", "text", "disk"]
SORT_KEYS: dict[Key, Callable[[RunRecord], Any]] = {
    "started": lambda record: record.started,
    "name": lambda record: str(record.path),
    "loss": lambda record: record.val_loss,
    "bits": lambda record: record.bits_per_byte,
    "time": lambda record: record.seconds,
    "model": lambda record: record.parameters,
    "text": lambda record: record.text_bytes,
    "disk": lambda record: record.disk_bytes,
}
NONE, LONGEST_CORPUS = "-", 24
READERS = 8
"""Runs that are read at the same time: most of the time passes in calls of the system."""


@dataclass(frozen=True)
class RunList:
    """Runs in the order in which they are shown."""

    records: tuple[RunRecord, ...]
    folders: tuple[Path, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the runs for `--json`."""
        return {"runs": [record.as_dict() for record in self.records]}

    def text(self) -> str:
        """Return the table, and a line for each damaged run."""
        if not self.records:
            return f"no runs in {', '.join(map(str, self.folders))}"
        titles, rights = zip(*((column.title, column.is_right) for column in COLUMNS), strict=True)
        rows = [titles, *(tuple(column.cell(record) for column in COLUMNS) for record in self.records)]
        widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, rights, strict=True)
            ).rstrip()
            for row in rows
        ]
        damaged = [record for record in self.records if record.state == "damaged"]
        notes = [f"{record.path}: {record.damages[0]}{others(record)}" for record in damaged]
        return "\n".join([*lines, *([""] if notes else []), *notes])


def others(record: RunRecord) -> str:
    """Return how many more damages a run has, in words."""
    more = len(record.damages) - 1
    return f" (and {quantity(more, 'other')})" if more else ""


def list_runs(folders: Sequence[Path], sort: Key, *, is_reversed: bool = False) -> RunList:
    """Return the runs in some folders, sorted; those that lack the figure come last.

    Losses, bits, times and sizes are sorted from the lowest to the highest, starts from the newest to the oldest.

    Raises:
        CheckpointError, StorageError: as `find_runs`.
    """
    paths = list(dict.fromkeys(find_runs(folders)))
    with ThreadPoolExecutor(READERS) as pool:
        records = list(pool.map(read_record, paths))
    key = SORT_KEYS[sort]
    known = [record for record in records if key(record) is not None]
    known.sort(key=key, reverse=(sort == "started") != is_reversed)
    unknown = [record for record in records if key(record) is None]
    return RunList(tuple(known + unknown), tuple(folders))


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    title: str
    cell: Callable[[RunRecord], str]
    is_right: bool = True


def steps_cell(record: RunRecord) -> str:
    """Return the steps that were made, of those that were planned where these are more."""
    steps, planned = record.steps, record.planned_steps
    if steps is None:
        return NONE
    return f"{steps:,}/{planned:,}" if planned is not None and planned > steps else f"{steps:,}"


def corpus_cell(record: RunRecord) -> str:
    """Return the corpus, shortened."""
    first, *more = record.corpus or (NONE,)
    name = first if len(first) <= LONGEST_CORPUS else f"{first[: LONGEST_CORPUS - 3]}..."
    return f"{name} +{len(more)}" if more else name


def optional(value: float | None, words: Callable[[float], str]) -> str:
    """Return a value in words, or the sign for none."""
    return NONE if value is None else words(value)


COLUMNS = (
    Column("run", lambda record: str(record.path), is_right=False),
    Column("state", lambda record: record.state, is_right=False),
    Column("method", lambda record: record.method, is_right=False),
    Column("corpus", corpus_cell, is_right=False),
    Column("text", lambda record: optional(record.text_bytes, size)),
    Column("model", lambda record: optional(record.parameters, lambda count: size(count, ""))),
    Column("steps", steps_cell),
    Column("epochs", lambda record: optional(record.epochs, rounded)),
    Column("val loss", lambda record: optional(record.val_loss, lambda loss: figure(loss, record.val_loss_interval))),
    Column("bits/byte", lambda record: optional(record.bits_per_byte, lambda bits: figure(bits, record.bits_interval))),
    Column("time", lambda record: optional(record.seconds, duration)),
    Column("device", lambda record: record.device or NONE, is_right=False),
    Column("disk", lambda record: optional(record.disk_bytes, size)),
)
