"""`gptcli runs show` and `gptcli runs diff`."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli.config.load import leaves_of
from gptcli.console import duration, quantity, rounded, size
from gptcli.figures import figure_with_interval
from gptcli.report.runs.chart import Series, draw
from gptcli.report.runs.reading import read_record
from gptcli.report.runs.record import RunRecord, number
from gptcli.train.verdict import curve_of, so_far

ROWS, LEAST_COLUMNS, MOST_COLUMNS = 12, 20, 100
ENOUGH_TOKENS = 10**9
"""Validation tokens for a verdict: how many there are is not recorded before the end."""
SAMPLES, SAMPLE_CHARACTERS = 4, 200
LABEL = 16
NOT_SETTINGS = ("model.vocab_size",)
"""Keys whose values follow from the text of a run, so that they are no settings."""


@dataclass(frozen=True)
class RunView:
    """One run, to be shown in a terminal with so many columns."""

    record: RunRecord
    columns: int

    def as_dict(self) -> dict[str, Any]:
        """Return the run for `--json`, with its evaluations and samples."""
        curve = [
            {"step": point.step, "train_loss": point.train_loss, "val_loss": point.val_loss}
            for point in curve_of(self.record.lines())
        ]
        return {**self.record.as_dict(), "evaluations": curve, "samples": self.record.samples()}

    def text(self) -> str:
        """Return what the run is, its curve, its verdict, and samples over time."""
        blocks = [list(self.facts()), self.curve(), self.verdict(), self.samples()]
        return "\n\n".join("\n".join(block) for block in blocks if block)

    def facts(self) -> Iterator[str]:
        """Yield a line for each fact that was recorded."""
        record = self.record
        yield line("run", f"{record.path}, {record.state}")
        for damage in record.damages:
            yield line("", damage)
        corpus = ", ".join(record.corpus)
        if corpus or record.text_bytes is not None:
            text = "" if record.text_bytes is None else f"{size(record.text_bytes)} to train on"
            yield line("text", ", ".join(filter(None, (corpus, text))))
        if record.parameters is not None:
            shape = "{n_layer} layers of {n_embd}".format(**record.config["model"]) if shaped(record) else ""
            yield line("model", ", ".join(filter(None, (f"{size(record.parameters, '')} parameters", shape))))
        yield from self.training()
        if record.val_loss is not None:
            unit = "nats/pair" if record.method == "dpo" else "nats/token"
            yield line("validation loss", f"{figure_with_interval(record.val_loss, record.val_loss_interval)} {unit}")
        if record.bits_per_byte is not None:
            yield line("bits per byte", figure_with_interval(record.bits_per_byte, record.bits_interval))
        yield line("disk", size(record.disk_bytes))

    def training(self) -> Iterator[str]:
        """Yield the lines on the steps and the time."""
        record = self.record
        if record.steps is not None:
            planned = "" if record.planned_steps in (None, record.steps) else f" of {record.planned_steps:,}"
            epochs = "" if record.epochs is None else f", {rounded(record.epochs)} epochs"
            yield line("steps", f"{record.steps:,}{planned}{epochs} ({record.method})")
        if record.started is not None:
            began = datetime.datetime.fromtimestamp(record.started).isoformat(" ", "minutes")
            took = "" if record.seconds is None else f", {duration(record.seconds)}"
            device = "" if record.device is None else f" on {record.device}"
            yield line("started", f"{began}{took}{device}")

    def curve(self) -> list[str]:
        """Return the picture of the losses."""
        lines = self.record.lines()
        points = {
            key: [(entry["step"], value) for entry in lines if (value := number(entry.get(key))) is not None]
            for key in ("train_loss", "val_loss")
        }
        series = [Series("training loss", points["train_loss"]), Series("validation loss", points["val_loss"], "o")]
        shown = [one for one in series if one.points]
        columns = min(MOST_COLUMNS, max(LEAST_COLUMNS, self.columns - LABEL))
        return [*draw(shown, columns, ROWS), "   ".join(one.legend for one in shown)] if shown else []

    def verdict(self) -> list[str]:
        """Return what the curve shows, as far as it goes."""
        told = self.record.summary.get("verdict_text")
        if isinstance(told, str):
            return [told]
        curve = curve_of(self.record.lines())
        return [so_far(curve, ENOUGH_TOKENS)] if curve else []

    def samples(self) -> list[str]:
        """Return a few of the samples that were printed during training, evenly over time."""
        found = [one for one in self.record.samples() if isinstance(one.get("text"), str)]
        if not found:
            return []
        count = min(SAMPLES, len(found))
        chosen = [found[round(i * (len(found) - 1) / max(1, count - 1))] for i in range(count)]
        return [f"step {one.get('step', 0):>7,}  {short(one['text'])}" for one in chosen]


def shaped(record: RunRecord) -> bool:
    """Return whether the run recorded depth and width."""
    return record.setting("model", "n_layer") is not None and record.setting("model", "n_embd") is not None


def line(label: str, words: str) -> str:
    """Return a line of two columns."""
    return f"{label:<{LABEL}} {words}"


def short(text: str) -> str:
    """Return the beginning of a text in one line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= SAMPLE_CHARACTERS else f"{flat[:SAMPLE_CHARACTERS]}..."


@dataclass(frozen=True)
class RunDifference:
    """Two runs, and the settings in which they differ."""

    one: RunRecord
    other: RunRecord

    @property
    def settings(self) -> dict[str, tuple[Any, Any]]:
        """The values of the settings that differ, None where a run has none."""
        values = [dict(leaves_of(record.config)) for record in (self.one, self.other)]
        names = [name for name in dict.fromkeys((*values[0], *values[1])) if name not in NOT_SETTINGS]
        pairs = {name: (values[0].get(name), values[1].get(name)) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def as_dict(self) -> dict[str, Any]:
        """Return the difference for `--json`."""
        return {
            "runs": [str(self.one.path), str(self.other.path)],
            "settings": {name: list(pair) for name, pair in self.settings.items()},
            "results": {name: list(pair) for name, pair in self.results().items()},
        }

    def results(self) -> dict[str, tuple[float | None, float | None]]:
        """Return the figures of both runs."""
        names = ("text_bytes", "parameters", "steps", "val_loss", "bits_per_byte", "seconds")
        return {name: (getattr(self.one, name), getattr(self.other, name)) for name in names}

    def text(self) -> str:
        """Return a table of the settings that differ, and of the figures."""
        pairs: dict[str, tuple[Any, Any]] = {**self.settings, **self.results()}
        rows = [("", self.one.name, self.other.name), *((name, *map(cell, pair)) for name, pair in pairs.items())]
        widths = [max(len(row[i]) for row in rows) for i in range(2)]
        lines = [f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip() for row in rows]
        count = len(self.settings)
        differ = (
            "the settings are the same" if count == 0 else f"{quantity(count, 'setting')} differ{'s' * (count == 1)}"
        )
        return "\n".join([lines[0], *lines[1 : 1 + count], "", *lines[1 + count :], "", differ])


def cell(value: Any) -> str:
    """Return a value of a table in words."""
    if value is None:
        return "-"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def show_run(path: Path, columns: int) -> RunView:
    """Return a run, to be shown.

    Raises:
        CheckpointError: there is no run.
    """
    return RunView(read_record(path), columns)


def compare_settings(one: Path, other: Path) -> RunDifference:
    """Return the difference of two runs.

    Raises:
        CheckpointError: one of them is no run.
    """
    return RunDifference(read_record(one), read_record(other))
