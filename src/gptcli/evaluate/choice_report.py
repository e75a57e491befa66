"""An evaluation of choices in words and figures: lines for people, one JSON object for programs. Measures nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from gptcli.evaluate.choices import ChoiceEvaluation
from gptcli.evaluate.report import one_line
from gptcli.evaluate.statistics import LEAST_CALIBRATION_ROWS, Uncertainty, proportion
from gptcli.figures import figure, figure_with_interval


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
        "calibration_error_by_chance": evaluation.calibration_noise,
        "calibration_bins": [asdict(found) for found in evaluation.bins],
        "chance": evaluation.chance,
        "commonest_answer": {"text": evaluation.commonest, "accuracy": evaluation.commonest_rate},
        "predictions": list(evaluation.predictions),
        "seconds": round(evaluation.seconds, 3),
    }


def ratio(name: str, value: float, found: Uncertainty) -> dict[str, Any]:
    return {name: value, f"{name}_stderr": found.stderr, f"{name}_interval": list(found.interval)}


def as_text(evaluation: ChoiceEvaluation, source: str, file: str) -> str:
    """What `gptcli eval --choices` prints."""
    after = f", each after {evaluation.shots} worked examples" if evaluation.shots else ""
    found, by_bytes = evaluation.accuracy_uncertainty, evaluation.accuracy_by_bytes_uncertainty
    commonest = proportion(round(evaluation.commonest_rate * evaluation.rows), evaluation.rows, "rows")
    lines = [
        f"model              {source}",
        f"rows               {evaluation.rows:,} of {one_line(file)}{after}",
        "",
        f"accuracy           {figure_with_interval(evaluation.accuracy, found.interval)}",
        f"  by bytes         {figure_with_interval(evaluation.accuracy_by_bytes, by_bytes.interval)}: "
        "each log-probability divided by its choice's length",
        f"  by chance        {figure(evaluation.chance, found.interval)}",
        f"  by one answer    {figure(evaluation.commonest_rate, commonest.interval)}, "
        f"always {one_line(evaluation.commonest)!r}",
        f"calibration error  {calibration(evaluation)}",
        f"intervals          95 %, Wilson's score interval over {found.unit}",
    ]
    if evaluation.cut_rows:
        lines.append(
            f"WARNING            rows that are longer than the context, whose beginning is not read: "
            f"{evaluation.cut_rows:,}"
        )
    return "\n".join(lines)


def calibration(evaluation: ChoiceEvaluation) -> str:
    """The calibration error in words."""
    error, noise = evaluation.calibration_error, evaluation.calibration_noise
    if error is None or noise is None:
        return f"not measured: it takes {LEAST_CALIBRATION_ROWS} rows or more to distinguish it from chance"
    return f"{error:.2f} (a perfectly calibrated model would show about {noise:.2f} on these rows)"
