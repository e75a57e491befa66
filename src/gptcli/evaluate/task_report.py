"""The scores of tasks in words and figures: a table for people, one JSON object for programs. Measures nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptcli.evaluate.harness import HarnessEvaluation

HEADER = ("task", "metric", "filter", "value", "stderr", "shots", "samples", "version")


def as_json(evaluation: HarnessEvaluation, source: str) -> dict[str, Any]:
    """The object that `gptcli eval --tasks --json` prints. `source` says which model was measured."""
    results = [asdict(score) for score in evaluation.scores]
    return {"model": source, "results": results, "seconds": round(evaluation.seconds, 3)}


def as_text(evaluation: HarnessEvaluation, source: str) -> str:
    """What `gptcli eval --tasks` prints: a line for each metric of each task."""
    rows = [
        (
            score.task,
            score.metric,
            score.filter,
            "-" if score.value is None else f"{score.value:.4f}",
            "" if score.stderr is None else f"\N{PLUS-MINUS SIGN} {score.stderr:.4f}",
            "" if score.num_fewshot is None else str(score.num_fewshot),
            "" if score.samples is None else f"{score.samples:,}",
            score.version or "",
        )
        for score in evaluation.scores
    ]
    widths = [max(map(len, column)) for column in zip(HEADER, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (HEADER, *rows)]
    return "\n".join([f"model  {source}", "", *(line.rstrip() for line in lines)])
