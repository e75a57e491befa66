"""An evaluation of choices in words and figures: lines for people, one JSON object for programs. Measures nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from gptcli.evaluate.choices import ChoiceEvaluation
from gptcli.evaluate.report import one_line
from gptcli.evaluate.statistics import Uncertainty


def as_json(evaluation: ChoiceEvaluation, source: str) -> dict[str, Any]:
    """The object that `gptcli eval --choices --json` prints. `source` says which model was measured."""
    return {
        "model": source,
        "rows": evaluation.rows,
        "shots": evaluation.shots,
        "cut_rows": evaluation.cut_rows,
        "unknown_characters": evaluation.unknown_tokens,
        **ratio("accuracy", evaluation.accuracy, evaluation.accuracy_uncertainty),
        **ratio("accuracy_by_bytes", evaluation.accuracy_by_bytes, evaluation.accuracy_by_bytes_uncertainty),
        "calibration_error": evaluation.calibration_error,
        "calibration_bins": [asdict(found) for found in evaluation.bins],
        "chance": evaluation.chance,
        "commonest_answer": {"text": evaluation.commonest, "accuracy": evaluation.commonest_rate},
        "predictions": list(evaluation.predictions),
        "seconds": round(evaluation.seconds, 3),
    }


def ratio(name: str, value: float, found: Uncertainty | None) -> dict[str, Any]:
    return {
        name: value,
        f"{name}_stderr": found and found.stderr,
        f"{name}_interval": found and [found.low, found.high],
    }


def as_text(evaluation: ChoiceEvaluation, source: str, file: str) -> str:
    """What `gptcli eval --choices` prints."""
    after = f", each after {evaluation.shots} worked examples" if evaluation.shots else ""
    bins, found = evaluation.bins, evaluation.accuracy_uncertainty
    lines = [
        f"model              {source}",
        f"rows               {evaluation.rows:,} of {one_line(file)}{after}",
        "",
        f"accuracy           {evaluation.accuracy:.4f}{interval(found)}",
        f"  by bytes         {evaluation.accuracy_by_bytes:.4f}{interval(evaluation.accuracy_by_bytes_uncertainty)}: "
        "each log-probability divided by its choice's length",
        f"  by chance        {evaluation.chance:.4f}",
        f"  by one answer    {evaluation.commonest_rate:.4f}, always {one_line(evaluation.commonest)!r}",
        f"calibration error  {evaluation.calibration_error:.4f} (expected, over {len(bins)} bins that hold rows)",
    ]
    if found:
        lines.append(f"intervals          95 %, bootstrap over {found.unit}")
    if evaluation.cut_rows:
        lines.append(
            f"WARNING            {evaluation.cut_rows:,} rows are longer than the context: their beginning is not read"
        )
    return "\n".join(lines)


def interval(found: Uncertainty | None) -> str:
    return f" ({found.low:.4f} to {found.high:.4f})" if found else ""
