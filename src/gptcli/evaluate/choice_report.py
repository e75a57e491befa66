"""The report of an evaluation of choices: lines for people, one JSON object for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from gptcli.evaluate.choices import ChoiceEvaluation
from gptcli.evaluate.report import one_line
from gptcli.evaluate.statistics import LEAST_CALIBRATION_ROWS, Uncertainty, proportion
from gptcli.figures import figure, figure_with_interval


@dataclass(frozen=True)
class ChoiceReport:
    """An evaluation of the rows of `file`, and the model that it is of, in words."""

    evaluation: ChoiceEvaluation
    model: str
    file: str

    def as_dict(self) -> dict[str, Any]:
        """Return the object that `gptcli eval --choices --json` prints."""
        found = self.evaluation
        return {
            "model": self.model,
            "rows": found.rows,
            "shots": found.shots,
            "cut_rows": found.cut_rows,
            "unknown_characters": found.unknown_tokens,
            **ratio("accuracy", found.accuracy, found.accuracy_uncertainty),
            **ratio("accuracy_by_bytes", found.accuracy_by_bytes, found.accuracy_by_bytes_uncertainty),
            "calibration_error": found.calibration_error,
            "calibration_error_by_chance": found.calibration_noise,
            "calibration_bins": [asdict(one) for one in found.bins],
            "chance": found.chance,
            "commonest_answer": {"text": found.commonest, "accuracy": found.commonest_rate},
            "predictions": list(found.predictions),
            "seconds": round(found.seconds, 3),
        }

    def text(self) -> str:
        """Return what `gptcli eval --choices` prints."""
        found = self.evaluation
        after = f", each after {found.shots} worked examples" if found.shots else ""
        whole, by_bytes = found.accuracy_uncertainty, found.accuracy_by_bytes_uncertainty
        commonest = proportion(round(found.commonest_rate * found.rows), found.rows, "rows")
        lines = [
            f"model              {self.model}",
            f"rows               {found.rows:,} of {one_line(self.file)}{after}",
            "",
            f"accuracy           {figure_with_interval(found.accuracy, whole.interval)}",
            f"  by bytes         {figure_with_interval(found.accuracy_by_bytes, by_bytes.interval)}: "
            "each log-probability divided by its choice's length",
            f"  by chance        {figure(found.chance, whole.interval)}",
            f"  by one answer    {figure(found.commonest_rate, commonest.interval)}, "
            f"always {one_line(found.commonest)!r}",
            f"calibration error  {calibration(found)}",
            f"intervals          95 %, Wilson's score interval over {whole.unit}",
        ]
        if found.cut_rows:
            lines.append(
                f"WARNING            rows that are longer than the context, whose beginning is not read: "
                f"{found.cut_rows:,}"
            )
        return "\n".join(lines)


def ratio(name: str, value: float, found: Uncertainty) -> dict[str, Any]:
    """Return a ratio with its standard error and interval, for JSON."""
    return {name: value, f"{name}_stderr": found.stderr, f"{name}_interval": list(found.interval)}


def calibration(evaluation: ChoiceEvaluation) -> str:
    """Return the calibration error in words."""
    error, noise = evaluation.calibration_error, evaluation.calibration_noise
    if error is None or noise is None:
        return f"not measured: it takes {LEAST_CALIBRATION_ROWS} rows or more to distinguish it from chance"
    return f"{error:.2f} (a perfectly calibrated model would show about {noise:.2f} on these rows)"
