"""Where a run stands between two steps. Knows no model and no file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from gptcli.train.pace import Knots
from gptcli.train.step import StepResult


@dataclass
class Position:
    """Where a run stands: all that a checkpoint holds besides tensors."""

    step: int = 0
    tokens: int = 0
    elapsed_seconds: float = 0.0
    stepping_seconds: float = 0.0
    """Of elapsed_seconds, what the steps took: without evaluations, samples and checkpoints."""
    last_val_loss: float | None = None
    evaluated_step: int | None = None
    best_val_loss: float | None = None
    evaluations_without_improvement: int = 0
    """The number of evaluations in a row, up to the newest, that found no lower validation loss."""
    latest: StepResult | None = None
    """The result of the newest step that was read."""
    is_unfinished: bool = False
    """Whether the work after `step` (its evaluation and all after that) was interrupted, and is to be done first."""
    batch_size: int | None = None
    """Sequences of a micro-batch, where the device had too little memory for as many as the settings say."""
    bad_steps: int = 0
    interval_loss: float = 0.0
    interval_steps: int = 0
    spent_seconds: float = 0.0
    """Of the time budget, by the processes that have trained so far, preparation included; 0 without a budget."""
    knots: Knots = ()
    """What a clock has planned so far; empty without one."""

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Self:
        """As a checkpoint's state keeps it: JSON has lists for tuples, and older runs lack some fields."""
        position = cls(**{field.name: state.get(field.name, field.default) for field in fields(cls)})
        position.knots = tuple((start, end) for start, end in position.knots)
        position.latest = StepResult(*position.latest) if position.latest else None
        return position

    def evaluated(self, loss: float) -> bool:
        """Note the validation loss after `step`; returns whether it is the lowest so far."""
        self.evaluated_step, self.last_val_loss = self.step, loss
        is_lowest = math.isfinite(loss) and (self.best_val_loss is None or loss < self.best_val_loss)
        self.evaluations_without_improvement = 0 if is_lowest else self.evaluations_without_improvement + 1
        if is_lowest:
            self.best_val_loss = loss
        return is_lowest

    def is_out_of_patience(self, patience: int) -> bool:
        """Whether so many evaluations in a row have found no lower validation loss; never with a patience of 0."""
        return 0 < patience <= self.evaluations_without_improvement

    def figures(self) -> dict[str, str]:
        """The figures beside a progress bar, the most important first, since a narrow terminal shows only those."""
        val_loss = {} if self.last_val_loss is None else {"val loss": f"{self.last_val_loss:.3f}"}
        return val_loss | {"tokens/s": f"{self.tokens / max(self.elapsed_seconds, 1e-9):,.0f}"}
