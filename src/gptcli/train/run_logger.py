"""The logs of a run: metrics, samples, fingerprints, and what its trackers get.

All ranks call a logger alike; only the first rank's writes.
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


class RunLogger:
    """Writes the logs of one run."""

    def __init__(self, run: RunDirectory, config: RunConfig, *, writes: bool = True) -> None:
        self.run, self.writes = run, writes
        self.metrics = MetricsLog(run.metrics_path)
        self.samples = MetricsLog(run.path / "samples.jsonl")
        self.fingerprints = MetricsLog(run.path / FINGERPRINTS_NAME)
        self.added: dict[str, Any] = {}
        """Values that events have added to the next line of metrics.jsonl."""
        names = config.train.trackers if writes else ()
        self.trackers = open_trackers(names, run.path, config.model_dump(mode="json"), self.metrics.last_step())

    def append(self, log: MetricsLog, line: Mapping[str, Any]) -> None:
        """Add a line to a log; where the disk is full, the line is kept for later and training goes on."""
        if not self.writes:
            return
        try:
            log.append(line)
        except StorageError as error:
            say(f"warning: {error}; lines are kept in memory until there is room")

    def add(self, figures: Mapping[str, Any]) -> None:
        """Add figures to the next line of metrics.jsonl."""
        self.added |= figures

    def log_metrics(self, line: Mapping[str, Any]) -> None:
        """Write a line of metrics.jsonl, with what was added to it, and give it to the trackers."""
        line, self.added = {**line, **self.added}, {}
        self.append(self.metrics, line)
        self.trackers.log(line["step"], line)

    def log_sample(self, step: int, text: str) -> None:
        """Write a line of samples.jsonl."""
        self.append(self.samples, {"step": step, "text": text})

    def log_fingerprint(self, line: Mapping[str, Any]) -> None:
        """Write a line of fingerprints.jsonl."""
        self.append(self.fingerprints, line)

    def sync(self) -> None:
        """Flush the metrics to the disk, as `MetricsLog.sync` does."""
        if self.writes:
            self.metrics.sync()

    def resume(self, step: int, *, is_unfinished: bool) -> None:
        """Drop the lines after `step`, where the run continues; of an unfinished step, those of its events too."""
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
        """Return the training loss of the newest line that has one."""
        losses = [line["train_loss"] for line in self.metrics.read() if line["train_loss"] is not None]
        return losses[-1] if losses else None

    def close(self) -> None:
        """Close the trackers."""
        self.trackers.close()
