"""The report of the scores of tasks: a table for people, one JSON object for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gptcli.evaluate.statistics import Z_95, proportion
from gptcli.figures import Interval, figure

if TYPE_CHECKING:
    from gptcli.evaluate.harness import HarnessEvaluation, TaskScore

HEADER = ("task", "metric", "filter", "value", "stderr", "95 % interval", "shots", "samples", "version")
SHARES = {"acc", "acc_norm", "acc_bytes", "exact_match"}
"""Metrics that are the share of right rows."""


@dataclass(frozen=True)
class TaskReport:
    """The scores of tasks, and the model that they are of, in words."""

    evaluation: HarnessEvaluation
    model: str

    def as_dict(self) -> dict[str, Any]:
        """Return the object that `gptcli eval --tasks --json` prints."""
        results = [asdict(score) | {"interval": interval_of(score)} for score in self.evaluation.scores]
        return {"model": self.model, "results": results, "seconds": round(self.evaluation.seconds, 3)}

    def text(self) -> str:
        """Return what `gptcli eval --tasks` prints: a line for each metric of each task."""
        rows = [HEADER, *(row_of(score) for score in self.evaluation.scores)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([f"model  {self.model}", "", *(line.rstrip() for line in lines)])


def row_of(score: TaskScore) -> tuple[str, ...]:
    """Return the cells of one line, in the order of HEADER."""
    interval = interval_of(score)
    return (
        score.task,
        score.metric,
        score.filter,
        "-" if score.value is None else figure(score.value, interval),
        f"\N{PLUS-MINUS SIGN} {figure(score.stderr, interval)}" if score.stderr and interval else "",
        "" if interval is None else " to ".join(figure(end, interval) for end in interval),
        "" if score.num_fewshot is None else str(score.num_fewshot),
        "" if score.samples is None else f"{score.samples:,}",
        score.version or "",
    )


def interval_of(score: TaskScore) -> Interval | None:
    """Return the 95 % interval of a metric: Wilson's for a share of rows, else from the standard error, or None.

    lm-eval's standard error is 0 where all rows are right or all are wrong, however few they are.
    """
    if score.value is None:
        return None
    if score.metric in SHARES and score.samples:
        return proportion(round(score.value * score.samples), score.samples, "rows").interval
    if not score.stderr:
        return None
    return score.value - Z_95 * score.stderr, score.value + Z_95 * score.stderr
