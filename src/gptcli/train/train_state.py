"""The state of a run between two steps, without tensors."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from gptcli.train.step import StepResult

Breakpoints = tuple[tuple[int, int], ...]
"""(step, end) pairs: from `step` on, the run was planned to end with step `end`. Steps rise from 0."""
NO_RESULT = StepResult(math.nan, math.nan, 0)


@dataclass
class TrainState:
    """All that a checkpoint holds besides tensors; the names of the fields are keys of its state.json."""

    step: int = 0
    tokens: int = 0
    elapsed_seconds: float = 0.0
    stepping_seconds: float = 0.0
    """The part of elapsed_seconds that the steps took: without evaluations, samples and checkpoints."""
    last_val_loss: float | None = None
    evaluated_step: int | None = None
    best_val_loss: float | None = None
    evaluations_without_improvement: int = 0
    """The number of evaluations in a row, up to the newest, that found no lower validation loss."""
    latest: StepResult = NO_RESULT
    """The result of the newest step that was read."""
    is_unfinished: bool = False
    """Whether the events after `step` were interrupted, so that a resumed run begins with them."""
    batch_size: int | None = None
    """The sequences of a micro-batch, where the device had too little memory for as many as the settings say."""
    bad_steps: int = 0
    interval_loss: float = 0.0
    interval_steps: int = 0
    interval_figures: tuple[float, ...] = ()
    """The sums of the objective's figures over the same steps as `interval_loss`."""
    spent_seconds: float = 0.0
    """The seconds of the time budget that all processes so far have spent, preparation included; 0 without a budget."""
    knots: Breakpoints = ()
    """The breakpoints that a clock has planned so far; empty without one."""

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take the values of a checkpoint's state: JSON has lists for tuples, and older runs lack some fields."""
        for field in fields(self):
            setattr(self, field.name, saved.get(field.name, field.default))
        self.knots = tuple((start, end) for start, end in self.knots)
        self.latest = StepResult(*self.latest) if self.latest else NO_RESULT
        self.interval_figures = tuple(self.interval_figures)

    @property
    def has_results(self) -> bool:
        """Whether the result of any step was read."""
        return self.latest.tokens > 0

    @property
    def val_loss(self) -> float | None:
        """The validation loss after `step`; None if that step was not evaluated."""
        return self.last_val_loss if self.evaluated_step == self.step else None

    @property
    def is_best(self) -> bool:
        """Whether the evaluation after `step` found the lowest validation loss so far."""
        return self.evaluated_step == self.step and self.evaluations_without_improvement == 0

    def count(self, result: StepResult, is_bad: bool) -> None:
        """Add the result of a step."""
        self.latest = result
        if is_bad:
            self.bad_steps += 1
            return
        self.bad_steps = 0
        self.interval_loss += result.loss
        self.interval_steps += 1
        before = self.interval_figures or (0.0,) * len(result.figures)
        self.interval_figures = tuple(map(operator.add, before, result.figures))

    def close_interval(self) -> tuple[float, ...] | None:
        """Return the means of loss and figures since the last call; None where there was no good step."""
        sums, steps = (self.interval_loss, *self.interval_figures), self.interval_steps
        self.interval_loss, self.interval_steps, self.interval_figures = 0.0, 0, ()
        return tuple(total / steps for total in sums) if steps else None

    def evaluated(self, loss: float) -> None:
        """Record the validation loss after `step`."""
        self.evaluated_step, self.last_val_loss = self.step, loss
        is_lowest = math.isfinite(loss) and (self.best_val_loss is None or loss < self.best_val_loss)
        self.evaluations_without_improvement = 0 if is_lowest else self.evaluations_without_improvement + 1
        if is_lowest:
            self.best_val_loss = loss

    def is_out_of_patience(self, patience: int) -> bool:
        """Return whether so many evaluations in a row found no lower validation loss; never with a patience of 0."""
        return 0 < patience <= self.evaluations_without_improvement

    def figures(self) -> dict[str, str]:
        """Return the figures beside a progress bar, the most important first: a narrow terminal shows only those."""
        val_loss = {} if self.last_val_loss is None else {"val loss": f"{self.last_val_loss:.3f}"}
        return val_loss | {"tokens/s": f"{self.tokens / max(self.elapsed_seconds, 1e-9):,.0f}"}
