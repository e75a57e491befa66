"""A verdict on a curve of validation losses: a pure function of the numbers that metrics.jsonl records.

Two evaluations are compared on the same parts of the validation text, part by part: it does not matter that some parts
are harder than others. A difference is believed if it is large enough to matter and lies SURE standard errors from
zero; docs/benchmarks.md says how often that is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from gptcli.evaluate.statistics import Uncertainty, mean_of_parts

Verdict = Literal["falling", "flat", "overfitted", "unstable", "too_few_evaluations", "too_small"]

LEAST_EVALUATIONS = 3
LEAST_TOKENS = 200
"""Below so many validation tokens the parts are a few words each, and depend on each other."""
SURE = 3.0
"""Standard errors. The best of ten evaluations is lower than the last by chance more often than a single one is, which
two standard errors would not allow for."""
RISE = 0.01
"""Part of the lowest loss by which the last one must exceed it: less is what losses vary by between two evaluations."""
FALL, RECENT = 0.005, 0.8
"""Part of the last loss by which it must lie below that of the last evaluation before this part of the steps. It must
not lie above the lowest by as much."""
BLIND = 0.02
"""A change that could be as large as this part of the loss without being seen makes a validation part too small."""


class CurvePoint(NamedTuple):
    """One measurement on the way: losses in nats a token; `parts` are the losses of the same parts at every step.

    train_loss: the mean over the steps since the line before; None where there was none.
    """

    step: int
    train_loss: float | None
    val_loss: float
    parts: tuple[float, ...] = ()


class Finding(NamedTuple):
    """A verdict, and the points of the curve that it rests on: `best` and `last` are None where there is no
    evaluation, `before` unless the verdict needs it.

    before: the evaluation that the last one is compared with to see whether the loss was still falling.
    """

    verdict: Verdict
    best: CurvePoint | None = None
    last: CurvePoint | None = None
    before: CurvePoint | None = None


def curve_of(lines: Iterable[Mapping[str, Any]]) -> list[CurvePoint]:
    """The evaluations among the lines of metrics.jsonl; those that found no finite loss, in a part of the training that
    was made again with other settings, do not count."""
    return [
        CurvePoint(line["step"], line["train_loss"], line["val_loss"], tuple(line.get("val_loss_parts") or ()))
        for line in lines
        if line.get("val_loss") is not None and math.isfinite(line["val_loss"])
    ]


def judge(curve: Sequence[CurvePoint], tokens: int) -> Finding:
    """The finding on the curve of a run.

    Args:
        curve: every evaluation of the run, in order.
        tokens: validation tokens that each of them read.
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


def exceeds(higher: CurvePoint, lower: CurvePoint, by: float) -> bool:
    """Whether one loss surely lies above another, and by at least `by` nats."""
    found = difference(higher, lower)
    rise = higher.val_loss - lower.val_loss
    return rise >= by and (found is None or rise > SURE * found.stderr)


def training_rose_too(best: CurvePoint, last: CurvePoint) -> bool:
    """Whether the training loss rose by half as much as the validation loss, or more: then it is not overfitting."""
    if best.train_loss is None or last.train_loss is None:
        return False
    return last.train_loss - best.train_loss >= (last.val_loss - best.val_loss) / 2


def blindness(one: CurvePoint, other: CurvePoint) -> float:
    """Nats by which two losses could differ without `exceeds` being sure of it."""
    found = difference(one, other)
    return SURE * found.stderr if found else 0.0


def difference(one: CurvePoint, other: CurvePoint) -> Uncertainty | None:
    """The uncertainty of the difference of two losses, part by part; None where their parts are not known."""
    if len(one.parts) != len(other.parts):
        return None
    return mean_of_parts([a - b for a, b in zip(one.parts, other.parts, strict=True)], "the validation text")
