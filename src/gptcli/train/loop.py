"""The training loop: steps, and what happens between them (metrics, validation, samples, checkpoints, stopping).

Everything between steps is decided by the step number alone, and every step is a function of the weights and
(seed, step), so a run that was stopped and resumed passes through the same weights as one that was not.
"""

from __future__ import annotations

import math
import signal
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from gptcli.checkpoint.background import BackgroundSaver
from gptcli.checkpoint.flatten import flatten_state, restore_state
from gptcli.checkpoint.load import Checkpoint
from gptcli.checkpoint.metrics import MetricsLog
from gptcli.checkpoint.run import RunDirectory
from gptcli.console import Progress, duration, say
from gptcli.data.prepare import default_cache_dir
from gptcli.errors import CheckpointError, DivergedError, GptcliError, Stopped, StorageError
from gptcli.evaluate.shards import Interrupted
from gptcli.generate.config import GenerationConfig
from gptcli.generate.text import generate
from gptcli.models.gpt import GPT
from gptcli.nn.device import peak_memory_bytes
from gptcli.optim.build import build_optimizer
from gptcli.optim.schedule import lr_factor, set_lr
from gptcli.train.bad_steps import keep_bad_step, reason_of
from gptcli.train.compiling import compiled
from gptcli.train.feed import Feed
from gptcli.train.fingerprints import FINGERPRINTS_NAME, hash_batches, hash_random_state, hash_tensors
from gptcli.train.pace import Course
from gptcli.train.plan import Plan
from gptcli.train.position import Position
from gptcli.train.signals import StopRequest
from gptcli.train.step import PendingStep, Stepper, StepResult, step_seed
from gptcli.train.trackers import open_trackers
from gptcli.train.validation import validation_loss


class Trainer:
    """Trains `model` by `plan` inside `run`, from step 0 or from where `restore` put it."""

    def __init__(self, plan: Plan, model: GPT, run: RunDirectory) -> None:
        config = plan.config
        self.plan, self.model, self.run_directory = plan, model, run
        self.config, self.train_config = config, config.train
        self.optimizer = build_optimizer(model.parameter_infos(), config.optim)
        loss_sum = compiled(model.loss_sum, default_cache_dir()) if config.train.compile else model.loss_sum
        self.stepper = Stepper(
            model,
            self.optimizer,
            loss_sum,
            device=plan.device,
            precision=plan.precision,
            grad_clip=config.train.grad_clip,
            max_spike=config.train.max_spike,
        )
        self.feed = Feed(plan.batches, config.sequences_per_step, config.train.batch_size, plan.device)
        self.val_losses: dict[str, float] = {}
        """Of a mix, what the last evaluation found of each corpus."""
        self.unread: deque[tuple[int, PendingStep]] = deque()
        self.position, self.pace = Position(), plan.new_pace()
        self.metrics = MetricsLog(run.metrics_path)
        self.samples = MetricsLog(run.path / "samples.jsonl")
        self.fingerprints = MetricsLog(run.path / FINGERPRINTS_NAME)
        self.trackers = open_trackers(
            config.train.trackers, run.path, config.model_dump(mode="json"), self.metrics.last_step()
        )
        train = config.train
        self.saver = BackgroundSaver(
            run, keep_last=train.keep_last, keep_best=train.keep_best, keep_every_steps=train.keep_every_steps
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint: weights, moments, scaler and position. Writes nothing."""
        state = checkpoint.state
        if state["data_fingerprint"] != self.plan.data.train.fingerprint:
            raise CheckpointError(
                "the corpus or tokenizer is not the one this run was trained on",
                "restore the corpus, or start a new run with another --out",
            )
        self.model.load_state_dict(checkpoint.tensors["model"])
        restore_state(self.optimizer, checkpoint.tensors["optimizer"], state["optimizer"])
        if state["scaler"]:
            self.stepper.scaler.load_state_dict(state["scaler"])
        if state.get("spikes") and self.stepper.spikes:
            self.stepper.spikes.restore(state["spikes"])
        self.position = Position.restored(state)
        self.feed.batch_size = self.position.batch_size or self.feed.batch_size
        if self.plan.clock is not None and self.position.knots:
            self.pace.course = Course(self.position.knots)
        self.set_rate(max(0, checkpoint.step - 1))
        self.saver.step = None if self.position.is_unfinished else checkpoint.step

    def forget_later_lines(self) -> None:
        """Drop what was logged after the step where the run goes on, and of that step what is still to be done."""
        step = self.position.step
        self.fingerprints.truncate_after(step)
        for log in (self.metrics, self.samples):
            log.truncate_after(step - 1 if self.position.is_unfinished else step)

    def run(self, stop: StopRequest) -> None:
        """Train to the last step, or until the time is up; on return the last step is saved.

        Raises:
            Stopped: a signal asked for it, after saving.
            DivergedError: too many steps in a row were not finite; the last good checkpoint is whole.
        """
        position, self.stop = self.position, stop
        stop.answer = "leave"
        self.model.train()
        self.began = time.perf_counter() - position.elapsed_seconds
        self.log_mark = (time.perf_counter(), position.tokens)
        is_over = self.pace.is_over(position.step) and not position.is_unfinished
        try:
            with Progress("train", self.pace.end, unit="steps", initial=position.step) as progress:
                while not is_over:
                    is_over = self.advance(progress)
                    if stop.signum is not None:
                        self.require_saved()
                        raise self.stopped(stop.signum)
            self.require_saved()
            stop.answer = "raise"
            if stop.signum is not None:
                raise self.stopped(stop.signum)
        finally:
            self.tell_if_unsaved()
            self.trackers.close()

    def advance(self, progress: Progress) -> bool:
        """One step and the events that it calls for; returns whether it was the last.

        A stop that is asked for during the evaluation is answered at once: the position then says what is left to do.
        """
        config, position, pace = self.train_config, self.position, self.pace
        made = 0 if position.is_unfinished else 1
        if made:
            self.step()
            if config.fingerprints:
                self.append(self.fingerprints, self.fingerprint())
        position.is_unfinished = False
        is_last = pace.is_over(position.step)
        evaluating = is_last or pace.is_due(position.step, config.eval_every_steps)
        logging = evaluating or pace.is_due(position.step, config.log_every_steps)
        sampling = pace.is_due(position.step, config.sample_every_steps)
        saving = is_last or pace.is_due(position.step, config.checkpoint_every_steps)
        if logging or sampling or saving:
            self.read_results()
        retarget(progress, pace.end)
        progress.update(made, loss=f"{position.latest.loss:.3f}", **self.rates())
        try:
            improved = self.evaluate() if evaluating else False
        except Interrupted:
            position.is_unfinished = True
            return False
        if logging:
            self.log(position.latest, evaluated=evaluating)
        if sampling:
            self.sample()
        if saving or (improved and config.keep_best):
            self.save()
        pace.lap(position.step)
        return is_last

    def step(self) -> None:
        """The next optimizer step. A GPU is given it before the result of the one before is read, so as never to idle.

        Raises:
            DivergedError: the last `max_bad_steps` steps that were read were not finite.
        """
        position = self.position
        with self.stepping():
            self.set_rate(position.step)
            pending = self.stepper.launch(self.feed.take(position.step), step_seed(self.config.seed, position.step))
            if self.stepper.batch_size:
                position.batch_size = self.feed.batch_size = self.stepper.batch_size
            position.step += 1
            position.tokens += pending.tokens
            self.unread.append((position.step, pending))
        self.stop.answer = "remember"
        self.read_results(but=1 if self.stepper.decides_on_device and self.position.latest else 0)

    def set_rate(self, step: int) -> None:
        """Set the learning rates of `step` (counted from 0)."""
        config, course = self.config, self.pace.course
        factor = lr_factor(config.schedule, course.place(step), course.length, config.optim.lr)
        set_lr(self.optimizer, factor)

    def read_results(self, but: int = 0) -> None:
        """Take note of what came of the steps launched so far, all `but` the newest few."""
        with self.stepping():
            while len(self.unread) > but:
                step, pending = self.unread.popleft()
                self.position.latest = pending.result()
                self.note(step, self.position.latest)

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """What is done within counts as time of the steps."""
        began = time.perf_counter()
        yield
        ended = time.perf_counter()
        self.position.stepping_seconds += ended - began
        self.position.elapsed_seconds = ended - self.began

    def note(self, step: int, result: StepResult) -> None:
        """Count the result of a step; gives up after `max_bad_steps` bad ones in a row."""
        position = self.position
        if not self.stepper.is_bad(result):
            position.bad_steps = 0
            position.interval_loss += result.loss
            position.interval_steps += 1
            return
        position.bad_steps += 1
        say(f"step {step}: loss {result.loss}, gradient norm {result.grad_norm}: {reason_of(result)}; it is skipped")
        self.keep_bad_step(step, result)
        if position.bad_steps >= self.train_config.max_bad_steps:
            raise DivergedError(
                f"training diverged: {position.bad_steps} steps in a row up to step {step} were bad",
                f"lower optim.lr (now {self.config.optim.lr:g}) and start again, or look at one: "
                f"gptcli replay {self.run_directory.path} {step}",
            )

    def keep_bad_step(self, step: int, result: StepResult) -> None:
        """Write down what a skipped step was made of; without room on the disk, go on without."""
        try:
            batches, tokenizer = self.feed.make(step - 1), self.plan.data.tokenizer
            say(f"its text is in {keep_bad_step(self.run_directory.path, step, result, batches, tokenizer)}")
        except StorageError as error:
            say(f"warning: {error}")

    def rates(self) -> dict[str, str]:
        """The figures shown beside the progress bar."""
        position = self.position
        figures = {"tokens/s": f"{position.tokens / max(position.elapsed_seconds, 1e-9):,.0f}"}
        if position.last_val_loss is not None:
            figures["val_loss"] = f"{position.last_val_loss:.3f}"
        return figures

    def evaluate(self) -> bool:
        """Measure the validation loss on its fixed part; returns whether it is the best so far.

        Raises:
            Interrupted: a signal asks to stop.
        """
        position = self.position
        with self.pace.timing("evaluate"):
            found = validation_loss(
                self.model,
                self.plan.data,
                seq_len=self.config.seq_len,
                batch_size=self.train_config.batch_size,
                max_tokens=self.train_config.eval_tokens,
                device=self.plan.device,
                precision=self.plan.precision,
                pack=self.config.data.pack,
                give_up=self.stop.is_wanted,
            )
        loss, self.val_losses = found.loss, found.by_corpus
        position.evaluated_step, position.last_val_loss = position.step, loss
        improved = math.isfinite(loss) and (position.best_val_loss is None or loss < position.best_val_loss)
        if improved:
            position.best_val_loss = loss
        return improved

    def log(self, result: StepResult, *, evaluated: bool) -> None:
        """Append one line to metrics.jsonl; train_loss is the mean over the steps since the last line."""
        position = self.position
        then, tokens_then = self.log_mark
        now = time.perf_counter()
        self.log_mark = (now, position.tokens)
        line: dict[str, Any] = {
            "step": position.step,
            "tokens": position.tokens,
            "time": round(time.time(), 3),
            "elapsed_seconds": round(position.elapsed_seconds, 3),
            "stepping_seconds": round(position.stepping_seconds, 3),
            "train_loss": position.interval_loss / position.interval_steps if position.interval_steps else None,
            "val_loss": position.last_val_loss if evaluated else None,
            "lr": self.optimizer.param_groups[0]["lr"],
            "grad_norm": result.grad_norm,
            "tokens_per_second": round((position.tokens - tokens_then) / max(now - then, 1e-9), 1),
            "memory_bytes": peak_memory_bytes(self.plan.device),
        }
        if evaluated:
            line |= {f"val_loss/{name}": value for name, value in self.val_losses.items()}
        position.interval_loss, position.interval_steps = 0.0, 0
        self.append(self.metrics, line)
        self.trackers.log(position.step, line)
        if evaluated:
            train_loss = math.nan if line["train_loss"] is None else line["train_loss"]
            say(
                f"step {position.step:,}/{self.pace.end:,}: train loss {train_loss:.4f}, "
                f"val loss {position.last_val_loss:.4f}, {duration(position.elapsed_seconds)}"
            )

    def fingerprint(self) -> dict[str, Any]:
        """Hashes of the last step's tokens, of the random numbers' state after it, and of weights and moments."""
        step = self.position.step
        return {
            "step": step,
            "batch": hash_batches(self.feed.make(step - 1)),
            "random": hash_random_state(self.plan.device),
            "weights": hash_tensors(self.model.state_dict()),
            "moments": hash_tensors(flatten_state(self.optimizer)[0]),
        }

    def sample(self) -> None:
        """Print and store a sample of generated text, without touching the training's randomness."""
        config = GenerationConfig(max_new_tokens=self.train_config.sample_tokens, seed=self.config.seed)
        with self.pace.timing("sample"):
            try:
                result = generate(self.model, self.plan.data.tokenizer, [self.train_config.sample_prompt], config)
            except GptcliError as error:  # such as weights that diverged: it is not for a sample to end the run
                return say(f"no sample at step {self.position.step:,}: {error}")
        text = self.train_config.sample_prompt + result.prompts[0].completions[0].text
        say(f"--- sample at step {self.position.step:,}\n{text}\n---")
        self.append(self.samples, {"step": self.position.step, "text": text})

    def append(self, log: MetricsLog, line: Mapping[str, Any]) -> None:
        """Add a line to a log; one that does not fit on the disk is kept for later, and training goes on."""
        try:
            log.append(line)
        except StorageError as error:
            say(f"warning: {error}; lines are kept in memory until there is room")

    def save(self) -> None:
        """Begin to write a checkpoint of this step, unless that was done; waits only for the one before it."""
        position = self.position
        if self.saver.step == position.step:
            return
        self.read_results()
        self.tell_if_unsaved()
        if self.plan.clock is not None:
            if self.saver.seconds is not None:
                self.pace.timings["write"].append(self.saver.seconds)
            position.spent_seconds, position.knots = self.plan.clock.spent(), self.pace.course.knots
        with self.pace.timing("save"):
            tensors, optimizer = flatten_state(self.optimizer)
            state = asdict(position) | {
                "val_loss": position.last_val_loss if position.evaluated_step == position.step else None,
                "optimizer": optimizer,
                "scaler": self.stepper.scaler.state_dict(),
                "spikes": self.stepper.spikes.state() if self.stepper.spikes else None,
                "data_fingerprint": self.plan.data.train.fingerprint,
                "config_fingerprint": self.plan.config_fingerprint,
            }
            parts = {"model": self.model.state_dict(), "optimizer": tensors}
            self.saver.submit(position.step, parts, state, before=self.metrics.sync)

    def tell_if_unsaved(self) -> None:
        """Wait for the save that goes on, if one does; where it failed, training goes on with a word of warning."""
        error = self.saver.wait()
        if error is not None:
            say(f"warning: {error}")

    def require_saved(self) -> None:
        """Wait until this step is saved, for a run that ends here; tries once more where that failed.

        Raises:
            StorageError: it cannot be saved; the checkpoints before are whole.
        """
        self.tell_if_unsaved()
        self.save()
        error = self.saver.wait()
        if error is not None:
            raise error

    def stopped(self, signum: int) -> Stopped:
        name = signal.Signals(signum).name
        return Stopped(
            f"stopped by {name} at step {self.position.step:,} of {self.pace.end:,}, saved",
            signum,
            f"go on with: gptcli train --resume --out {self.run_directory.path}",
        )


def retarget(progress: Progress, total: int) -> None:
    """Let the progress shown end at another number than it was begun with."""
    progress.total = total
    if progress.bar is not None:
        progress.bar.total = total
