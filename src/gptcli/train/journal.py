"""What a run writes down line by line: metrics, samples, fingerprints, and what its trackers are told.

Of several ranks only the first one's journal writes; that of the others takes note of nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gptcli.checkpoint.metrics import MetricsLog
from gptcli.checkpoint.run_directory import LOGS, RunDirectory
from gptcli.console import say
from gptcli.errors import StorageError
from gptcli.manifest import read_manifest, replacing
from gptcli.train.config import RunConfig
from gptcli.train.fingerprints import FINGERPRINTS_NAME
from gptcli.train.trackers import open_trackers


class Journal:
    """The logs of one run."""

    def __init__(self, run: RunDirectory, config: RunConfig, *, writes: bool = True) -> None:
        self.run, self.writes = run, writes
        self.metrics = MetricsLog(run.metrics_path)
        self.samples = MetricsLog(run.path / "samples.jsonl")
        self.fingerprints = MetricsLog(run.path / FINGERPRINTS_NAME)
        names = config.train.trackers if writes else ()
        self.trackers = open_trackers(names, run.path, config.model_dump(mode="json"), self.metrics.last_step())

    def append(self, log: MetricsLog, line: Mapping[str, Any]) -> None:
        """Add a line to a log; one that does not fit on the disk is kept for later, and training goes on."""
        if not self.writes:
            return
        try:
            log.append(line)
        except StorageError as error:
            say(f"warning: {error}; lines are kept in memory until there is room")

    def measured(self, step: int, line: Mapping[str, Any]) -> None:
        """A line of metrics, for the trackers too."""
        self.append(self.metrics, line)
        self.trackers.log(step, line)

    def sync(self) -> None:
        """Flush the metrics to the disk, as `MetricsLog.sync`."""
        if self.writes:
            self.metrics.sync()

    def forget_later_lines(self, step: int, *, is_unfinished: bool) -> None:
        """Drop what was logged after the step where the run goes on, and of that step what is still to be done."""
        if not self.writes:
            return
        manifest = read_manifest(self.run.path)
        for name in manifest.below(LOGS):
            if damage := manifest.damage(name):
                say(f"warning: {self.run.path / name} {damage}")
        with replacing(self.run.path, (), LOGS):
            self.fingerprints.truncate_after(step)
            for log in (self.metrics, self.samples):
                log.truncate_after(step - 1 if is_unfinished else step)

    def last_train_loss(self) -> float | None:
        losses = [line["train_loss"] for line in self.metrics.read() if line["train_loss"] is not None]
        return losses[-1] if losses else None

    def close(self) -> None:
        self.trackers.close()
