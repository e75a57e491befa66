"""The events between the steps of a training.

A new event is a class with `due` and `run`, and its line in `training_events`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from gptcli.console import duration, say
from gptcli.errors import GptcliError
from gptcli.generate.config import GenerationConfig
from gptcli.generate.text import generate
from gptcli.nn.device import Precision, autocast, peak_memory_bytes
from gptcli.train.divergence import require_finite_loss
from gptcli.train.loop import Event, Trainer
from gptcli.train.verdict import curve_of, so_far


def training_events(trainer: Trainer) -> Sequence[Event]:
    """Return the events of a training, in the order in which they run."""
    return (
        Evaluate(trainer),
        LogMetrics(trainer),
        RequireFiniteLoss(trainer),
        GenerateSample(trainer),
        SaveCheckpoint(trainer),
        ShowStatus(trainer),
    )


class TrainerEvent:
    """The base of events of one trainer."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.config = trainer, trainer.train_config
        self.state, self.length = trainer.state, trainer.length


class Evaluate(TrainerEvent):
    """Measures the validation loss on its fixed part."""

    def due(self, step: int, is_last: bool) -> bool:
        """Return whether the event happens after `step`."""
        return is_last or self.length.is_due(step, self.config.eval_every_steps)

    def run(self) -> None:
        """Run the event."""
        trainer = self.trainer
        trainer.world.work = f"the evaluation after step {self.state.step}"
        with self.length.timing("evaluate"):
            found = trainer.validator.measure(trainer.model, self.config.eval_tokens, trainer.consensus.is_stop_wanted)
        self.state.evaluated(found.loss)
        trainer.logger.add({f"val_loss/{name}": loss for name, loss in found.by_corpus.items()})
        trainer.logger.add({f"val_{name}": value for name, value in found.figures.items()})
        trainer.logger.add({"val_loss_parts": [round(loss, 5) for loss in found.parts]})


class LogMetrics(TrainerEvent):
    """Appends a line to metrics.jsonl; its train_loss is the mean over the steps since the last line."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        self.logged = (time.perf_counter(), self.state.tokens)
        """The time of the last line, and the tokens up to it."""

    def due(self, step: int, is_last: bool) -> bool:
        """Return whether the event happens after `step`."""
        return self.state.val_loss is not None or self.length.is_due(step, self.config.log_every_steps)

    def run(self) -> None:
        """Run the event."""
        trainer, state = self.trainer, self.state
        before, tokens_before = self.logged
        self.logged = now, tokens = time.perf_counter(), state.tokens
        train_loss, *figures = state.close_interval() or (None,)
        line = {
            "step": state.step,
            "tokens": tokens,
            "time": round(time.time(), 3),
            "elapsed_seconds": round(state.elapsed_seconds, 3),
            "stepping_seconds": round(state.stepping_seconds, 3),
            "train_loss": train_loss,
            "val_loss": state.val_loss,
            "lr": trainer.optimizer.param_groups[0]["lr"],
            "grad_norm": state.latest.grad_norm,
            "tokens_per_second": round((tokens - tokens_before) / max(now - before, 1e-9), 1),
            "memory_bytes": peak_memory_bytes(trainer.plan.device),
            "tokens_hash": trainer.tokens_hash(),
            **dict(zip(trainer.strategy.objective.figure_names, figures, strict=False)),
        }
        val_figures = trainer.strategy.objective.shown_figures(trainer.logger.added, "val_")
        trainer.logger.log_metrics(line)
        if state.val_loss is not None:
            shown = math.nan if train_loss is None else train_loss
            say(
                f"step {state.step:,}/{self.length.end:,}: train loss {shown:.4f}, "
                f"val loss {state.val_loss:.4f}, "
                + "".join(f"{name} {value}, " for name, value in val_figures.items())
                + duration(state.elapsed_seconds)
            )


class RequireFiniteLoss(TrainerEvent):
    """Ends the training where the validation loss is not finite, before anything of that step is saved."""

    def due(self, step: int, is_last: bool) -> bool:
        """Return whether the event happens after `step`."""
        return self.state.val_loss is not None

    def run(self) -> None:
        """Run the event."""
        if self.state.val_loss is not None:
            require_finite_loss(self.state.val_loss, self.state.step, self.trainer.config)


class GenerateSample(TrainerEvent):
    """Prints and stores a sample of generated text, without using the training's randomness."""

    def due(self, step: int, is_last: bool) -> bool:
        """Return whether the event happens after `step`."""
        return self.length.is_due(step, self.config.sample_every_steps)

    def run(self) -> None:
        """Run the event."""
        trainer, plan, step = self.trainer, self.trainer.plan, self.state.step
        settings = GenerationConfig(max_new_tokens=self.config.sample_tokens, seed=trainer.config.seed)
        # Weights that ranks gather may be bf16, which only autocast accepts.
        precision: Precision = plan.precision if trainer.strategy.layout.is_sharded else "fp32"
        with self.length.timing("sample"), autocast(plan.device, precision):
            try:
                result = generate(trainer.model, plan.data.tokenizer, [self.config.sample_prompt], settings)
            except GptcliError as error:  # such as weights that diverged; a sample must not end the run
                return say(f"no sample at step {step:,}: {error}")
        text = self.config.sample_prompt + result.prompts[0].completions[0].text
        say(f"--- sample at step {step:,}\n{text}\n---")
        trainer.logger.log_sample(step, text)


class SaveCheckpoint(TrainerEvent):
    """Saves a checkpoint regularly, and after each evaluation that found the lowest loss so far."""

    def due(self, step: int, is_last: bool) -> bool:
        """Return whether the event happens after `step`."""
        is_best = self.config.keep_best and self.state.is_best
        return is_last or is_best or self.length.is_due(step, self.config.checkpoint_every_steps)

    def run(self) -> None:
        """Run the event."""
        self.trainer.save()


class ShowStatus(TrainerEvent):
    """Prints how the run stands, if a signal has asked for it."""

    def due(self, step: int, is_last: bool) -> bool:
        """Return whether the event happens after `step`."""
        return self.trainer.stop.is_status_wanted

    def run(self) -> None:
        """Run the event."""
        trainer, state = self.trainer, self.state
        trainer.stop.is_status_wanted = False
        if not trainer.world.is_first:
            return
        curve = curve_of(trainer.logger.metrics.read())
        place = f"step {state.step:,}/{self.length.end:,}, {duration(state.elapsed_seconds)}"
        say(f"{place}: loss {state.latest.loss:.4f}; {so_far(curve, trainer.evaluated_tokens)}")
