"""Sentences on why a run ended and what its curve of validation losses shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gptcli.console import quantity
from gptcli.evaluate.statistics import mean_of_parts
from gptcli.figures import Interval, figure, figure_with_interval
from gptcli.train.config import TrainerConfig
from gptcli.train.resume import resume_command
from gptcli.train.verdict import LEAST_TOKENS, CurvePoint, Finding

End = Literal["max_steps", "time", "patience"]
SMALL_PART = "--set data.val_fraction=0.2 makes it larger, --set data.val=PATH names another text"
OFTEN = 10
"""The number of evaluations that show a curve well."""


@dataclass(frozen=True)
class Ending:
    """The end of a run, and the figures to judge it by.

    steps, planned: the number of steps that were made, and of those that were planned.
    tokens, val_tokens: the validation tokens that each evaluation during the training read, and all there are.
    used_step: the step whose weights generate and eval use.
    """

    run: Path
    train: TrainerConfig
    end: End
    steps: int
    planned: int
    tokens: int
    val_tokens: int
    used_step: int
    finding: Finding

    @property
    def reason(self) -> str:
        """The reason why the run ended before its last step; empty if it did not."""
        if self.end != "patience" or self.steps == self.planned:
            return ""
        count = quantity(self.train.patience, "evaluation")
        return (
            f"The run ended at step {self.steps:,} of {self.planned:,}: {count} in a row brought no lower validation "
            "loss (train.patience)."
        )

    @property
    def sentence(self) -> str:
        """The verdict in words, with advice."""
        match self.finding.verdict:
            case "too_small":
                return self.too_small()
            case "too_few_evaluations":
                return (
                    "There were too few evaluations to tell what the validation loss does "
                    f"(--set train.eval_every_steps={max(1, self.steps // OFTEN)} makes more)."
                )
            case "overfitted":
                return self.overfitted()
            case "unstable":
                return self.unstable()
            case "falling":
                return (
                    f"The validation loss was still falling at the end ({self.recent()}), so more steps would probably "
                    f"lower it further: {self.command_for_more()}"
                )
            case "flat":
                return f"The validation loss was flat at the end ({self.recent()}): more steps would hardly lower it."

    def recent(self) -> str:
        """Return the last loss and the one that it is compared with."""
        before, last = self.finding.before, self.finding.last
        assert before is not None and last is not None
        higher, lower = apart(before.val_loss, last.val_loss)
        return f"{higher} at step {before.step:,}, {lower} at step {last.step:,}"

    def overfitted(self) -> str:
        """Return the sentence on an overfitted model."""
        best, last = self.finding.best, self.finding.last
        assert best is not None and last is not None
        low, high = apart(best.val_loss, last.val_loss)
        training = "."
        if best.train_loss is not None and last.train_loss is not None:
            then, now = apart(best.train_loss, last.train_loss)
            training = f", while the training loss went from {then} to {now}."
        sooner = "" if self.train.patience else " With --set train.patience=3 such a run ends sooner."
        return (
            f"The model is overfitted since step {best.step:,}: the validation loss was {low} there and {high} at step "
            f"{last.step:,}{training} {self.kept(best)}{sooner}"
        )

    def unstable(self) -> str:
        """Return the sentence on an unstable training."""
        best, last = self.finding.best, self.finding.last
        assert best is not None and last is not None
        low, high = apart(best.val_loss, last.val_loss)
        assert best.train_loss is not None and last.train_loss is not None
        then, now = apart(best.train_loss, last.train_loss)
        return (
            f"Training became worse after step {best.step:,}: the validation loss went from {low} to {high} by step "
            f"{last.step:,}, and the training loss from {then} to {now} (a lower optim.lr may help). {self.kept(best)}"
        )

    def kept(self, best: CurvePoint) -> str:
        """Return the sentence on the weights that the run has."""
        if self.used_step == best.step:
            return f"The checkpoint of step {best.step:,}, the best, is kept, and generate and eval use it."
        return f"That checkpoint was not kept (train.keep_best): generate and eval use that of step {self.used_step:,}."

    def too_small(self) -> str:
        """Return the sentence on a validation part that is too small."""
        last, count = self.finding.last, quantity(self.tokens, "token")
        assert last is not None
        subject, read, remedy = "The validation part is", f"its {count}", SMALL_PART
        if self.tokens < self.val_tokens:
            subject, read = "What an evaluation reads is", f"the {count} of {self.val_tokens:,}"
            remedy = f"--set train.eval_tokens={min(self.val_tokens, max(LEAST_TOKENS, 4 * self.tokens))} reads more"
        loss = figure_with_interval(last.val_loss, loss_interval(last.val_loss, last.parts))
        return (
            f"{subject} too small to tell which checkpoint is the best: on {read} the loss is {loss}, and the "
            f"evaluations differ by less than that can tell apart ({remedy})."
        )

    def command_for_more(self) -> str:
        """Return the command that trains as long again, or to the last step where patience ended the run before."""
        resume = resume_command(self.run)
        if self.end == "patience":
            return f"{resume} --set train.patience=0"
        if self.end == "time" and self.train.max_seconds is not None:
            return f"{resume} --time {round(self.train.max_seconds)}s"
        other_pace = " --set train.pace=" if self.train.pace else ""
        return f"{resume} --set train.max_steps={2 * self.steps}{other_pace}"


def apart(one: float, other: float) -> tuple[str, str]:
    """Return two numbers with enough digits to show their difference."""
    interval = min(one, other), max(one, other)
    return figure(one, interval), figure(other, interval)


def loss_interval(loss: float, parts: tuple[float, ...]) -> Interval | None:
    """Return the 95 % interval of a validation loss, from 0 up, by that of its parts; None for a single part."""
    found = mean_of_parts(parts, "the validation text")
    if found is None:
        return None
    half = (found.high - found.low) / 2
    return max(0.0, loss - half), loss + half
