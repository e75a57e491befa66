"""`gptcli runs export`: the metrics of a run that was made without a tracker, in one afterwards, or as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli.checkpoint.lock import is_locked
from gptcli.checkpoint.metrics import MetricsLog
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.console import quantity
from gptcli.errors import DataError, GptcliError, UsageError, first_line
from gptcli.report.runs.reading import read_record
from gptcli.storage import write_atomic
from gptcli.train.config import TrackerName
from gptcli.train.trackers import Metrics, flattened, numbers_of, open_tracker, read_keys

Json = dict[str, Any]

FILES_OF: dict[TrackerName, tuple[str, ...]] = {
    "tensorboard": ("tensorboard",),
    "trackio": (),
    "wandb": ("wandb",),
    "mlflow": ("mlflow.db",),
}
"""The files and folders by which a run directory shows that it has a tracker's run."""


@dataclass(frozen=True)
class Export:
    """Metrics that have been written: how many lines, and where they are in words."""

    run: Path
    lines: int
    place: str

    def as_dict(self) -> Json:
        """Return the result for `--json`."""
        return {"run": str(self.run), "lines": self.lines, "place": self.place}

    def text(self) -> str:
        """Return the result as a sentence."""
        return f"{quantity(self.lines, 'line')} of {self.run / 'metrics.jsonl'} are in {self.place}"


def metrics_of(path: Path) -> list[Json]:
    """Return the metrics of a run.

    Raises:
        CheckpointError: there is no run, or its metrics are damaged.
        DataError: there are none yet.
    """
    run = RunDirectory.open(path)
    lines = MetricsLog(run.metrics_path).read()
    if not lines:
        raise DataError(f"{run.path} has no metrics yet", "wait for its first logged step")
    return lines


def as_csv(lines: Sequence[Metrics]) -> str:
    """Return a table of CSV with a column for each number, and empty cells where a line lacks it."""
    rows = [{"step": line.get("step"), **numbers_of(line)} for line in lines]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_csv(path: Path, out: Path) -> Export:
    """Write the metrics of a run as CSV into a new file.

    Raises:
        UsageError: the file exists.
        CheckpointError, DataError: as `metrics_of`.
        StorageError: the file cannot be written.
    """
    lines = metrics_of(path)
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} exists", "choose another --out")
    write_atomic(out, as_csv(lines))
    return Export(path, len(lines), str(out))


def send(path: Path, name: TrackerName) -> Export:
    """Send the metrics of a run to a tracker, as a new run there.

    Raises:
        UsageError: the tracker is not installed or has the run already, or the run is being trained.
        CheckpointError, DataError: as `metrics_of`.
        GptcliError: the tracker fails.
    """
    lines, record = metrics_of(path), read_record(path)
    if name in read_keys(path) or any((path / folder).exists() for folder in FILES_OF[name]):
        raise UsageError(f"{name} has this run already", "look there, or remove what it wrote into the run directory")
    if is_locked(RunDirectory(path).lock_path):
        raise UsageError(f"{path} is being trained", "wait for its end, or set train.trackers")
    try:
        tracker = open_tracker(name, path, None, flattened(record.config))
        try:
            for line in lines:
                tracker.log(line["step"], numbers_of(line))
        finally:
            tracker.close()
    except GptcliError:
        raise
    except Exception as error:  # whatever another program's client raises
        raise GptcliError(f"{name} has failed: {first_line(error)}", "see its own documentation") from error
    return Export(path, len(lines), tracker.key or str(path / FILES_OF[name][0]))
