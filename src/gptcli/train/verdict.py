"""The verdict on a curve of validation losses: a pure function of the numbers in metrics.jsonl.

Two evaluations are compared part by part on the same validation text, so it does not matter that some parts are harder
than others. A difference counts if it is large enough to matter and SURE standard errors from zero; docs/benchmarks.md
has the rate of errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from gptcli.evaluate.statistics import Uncertainty, mean_of_parts

Verdict = Literal["falling", "flat", "overfitted", "unstable", "too_few_evaluations", "too_small"]

LEAST_EVALUATIONS = 3
LEAST_TOKENS = 200
"""The number of validation tokens below which the parts are a few words each, and depend on each other."""
SURE = 3.0
"""Standard errors. Two would ignore that the best of ten evaluations is lower than the last by chance more often than a
single one is."""
RISE = 0.01
"""The part of the lowest loss by which the last one must exceed it: losses vary by less between two evaluations."""
FALL, RECENT = 0.005, 0.8
"""FALL is the part of the last loss by which it must be below that of the last evaluation before RECENT of the steps.
It must not be above the lowest loss by as much."""
BLIND = 0.02
"""A validation part is too small if a change of this part of the loss could go unnoticed."""


class CurvePoint(NamedTuple):
    """One evaluation during the training, with losses in nats per token.

    train_loss: the mean over the steps since the last line; None where there were none.
    parts: the losses of parts of the validation text, the same parts at every step.
    """

    step: int
    train_loss: float | None
    val_loss: float
    parts: tuple[float, ...] = ()


class Finding(NamedTuple):
    """A verdict, and the points of the curve that it is based on.

    best, last: None where there is no evaluation.
    before: the evaluation that shows, compared with the last one, whether the loss was still falling; else None.
    """

    verdict: Verdict
    best: CurvePoint | None = None
    last: CurvePoint | None = None
    before: CurvePoint | None = None


def curve_of(lines: Iterable[Mapping[str, Any]]) -> list[CurvePoint]:
    """Return the evaluations among the lines of metrics.jsonl.

    Those without a finite loss do not count: that part of the training was repeated with other settings.
    """
    return [
        CurvePoint(line["step"], line["train_loss"], line["val_loss"], tuple(line.get("val_loss_parts") or ()))
        for line in lines
        if line.get("val_loss") is not None and math.isfinite(line["val_loss"])
    ]


def judge(curve: Sequence[CurvePoint], tokens: int) -> Finding:
    """Return the finding on the curve of a run.

    Args:
        curve: every evaluation of the run, in order.
        tokens: the validation tokens that each of them read.
    """
    if not curve:
        return Finding("too_few_evaluations")
    best, last = min(curve, key=lambda one: one.val_loss), curve[-1]
    if tokens < LEAST_TOKENS:
        return Finding("too_small", best, last)
    if len(curve) < LEAST_EVALUATIONS:
        return Finding("too_few_evaluations", best, last)
    before = next((one for one in reversed(curve) if one.step <= RECENT * last.step), curve[0])
    if exceeds(last, best, RISE * best.val_loss):
        return Finding("unstable" if training_rose_too(best, last) else "overfitted", best, last)
    if exceeds(before, last, FALL * last.val_loss) and not exceeds(last, best, FALL * best.val_loss):
        return Finding("falling", best, last, before)
    is_blind = any(blindness(one, last) > BLIND * last.val_loss for one in (best, before))
    return Finding("too_small" if is_blind else "flat", best, last, before)


def so_far(curve: Sequence[CurvePoint], tokens: int) -> str:
    """Return how a run stands that has not come to its end, in words; see `judge`."""
    finding = judge(curve, tokens)
    what = finding.verdict.replace("_", " ")
    if finding.best is None:
        return f"so far {what}"
    return f"so far {what}: the lowest validation loss is {finding.best.val_loss:.4f}, at step {finding.best.step:,}"


def exceeds(higher: CurvePoint, lower: CurvePoint, by: float) -> bool:
    """Return whether one loss is surely above another, and by at least `by` nats."""
    found = difference(higher, lower)
    rise = higher.val_loss - lower.val_loss
    return rise >= by and (found is None or rise > SURE * found.stderr)


def training_rose_too(best: CurvePoint, last: CurvePoint) -> bool:
    """Return whether the training loss rose at least half as much as the validation loss: that is not overfitting."""
    if best.train_loss is None or last.train_loss is None:
        return False
    return last.train_loss - best.train_loss >= (last.val_loss - best.val_loss) / 2


def blindness(one: CurvePoint, other: CurvePoint) -> float:
    """Return the nats by which two losses could differ without `exceeds` being sure of it."""
    found = difference(one, other)
    return SURE * found.stderr if found else 0.0


def difference(one: CurvePoint, other: CurvePoint) -> Uncertainty | None:
    """Return the uncertainty of the difference of two losses, part by part; None where their parts are unknown."""
    if len(one.parts) != len(other.parts):
        return None
    return mean_of_parts([a - b for a, b in zip(one.parts, other.parts, strict=True)], "the validation text")
