"""The training loop: steps, and what happens between them (metrics, validation, samples, checkpoints, stopping).

Everything between steps is decided by the step number alone, and every step is a function of the weights and
(seed, step), so a run that was stopped and resumed passes through the same weights as one that was not.
"""

from __future__ import annotations

import math
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from gptcli.checkpoint.background import BackgroundSaver
from gptcli.checkpoint.load import Checkpoint
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.console import Progress, duration, say
from gptcli.errors import GptcliError, Stopped
from gptcli.evaluate.shards import Interrupted, ShardScorer
from gptcli.generate.config import GenerationConfig
from gptcli.generate.text import generate
from gptcli.nn.device import autocast, peak_memory_bytes
from gptcli.optim.build import build_optimizer
from gptcli.optim.schedule import lr_factor, set_lr
from gptcli.parallel.strategy import Strategy
from gptcli.train.agreement import Agreement
from gptcli.train.bad_steps import keep_bad_step, reason_of
from gptcli.train.divergence import bad_steps_in_a_row, load_finite, require_finite_loss, require_finite_state
from gptcli.train.feed import Feed
from gptcli.train.fingerprints import fingerprint
from gptcli.train.journal import Journal
from gptcli.train.pace import Course
from gptcli.train.planning.plan import Plan
from gptcli.train.position import Position
from gptcli.train.resume import identity, require_same_training, resume_command
from gptcli.train.signals import StopRequest
from gptcli.train.step import PendingStep, Share, Stepper, StepResult, step_seed
from gptcli.train.validation import Validation, Validator


class Trainer:
    """Trains the model of `strategy` by `plan` inside `run`, from step 0 or from where `restore` put it.

    The ranks of `strategy` make every call here alike, and the first one writes.
    """

    def __init__(self, plan: Plan, strategy: Strategy, run: RunDirectory) -> None:
        config, train = plan.config, plan.config.train
        self.plan, self.run_directory = plan, run
        self.config, self.train_config = config, train
        self.strategy, self.model, self.world = strategy, strategy.model, strategy.world
        self.optimizer = build_optimizer(strategy.infos, config.optim)
        self.model.reserve_positions(config.seq_len)
        self.stepper = Stepper(
            strategy,
            self.optimizer,
            device=plan.device,
            precision=plan.precision,
            grad_clip=train.grad_clip,
            max_spike=train.max_spike,
        )
        share = Share(strategy.layout.data_rank, strategy.layout.data_ranks)
        self.feed = Feed(plan.batches, config.sequences_per_step, config.train.batch_size, plan.device, share)
        scorer = ShardScorer(strategy, config.seq_len, train.batch_size, plan.device, plan.precision, config.data.pack)
        self.validator = Validator(plan.data, scorer)
        self.validation: Validation | None = None
        """The result of the last evaluation."""
        self.unread: deque[tuple[int, PendingStep]] = deque()
        self.position, self.pace = Position(), plan.new_pace()
        self.journal = Journal(run, config, writes=self.world.is_first)
        kept = {"keep_last": train.keep_last, "keep_best": train.keep_best, "keep_every_steps": train.keep_every_steps}
        self.saver = BackgroundSaver(run, group=strategy.group, **kept)

    def load(self, path: Path, parts: Sequence[str]) -> Checkpoint:
        """Read a checkpoint as `restore` and `load_weights` take it: whole tensors, or this rank's pieces of them."""
        return load_finite(path, parts, self.strategy)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint: weights, moments, scaler and position. Writes nothing."""
        state = checkpoint.state
        require_same_training(state, self.plan, self.run_directory, self.world.size)
        self.strategy.load_weights(checkpoint.tensors["model"])
        self.strategy.load_optimizer_state(self.optimizer, checkpoint.tensors["optimizer"], state["optimizer"])
        if state["scaler"]:
            self.stepper.scaler.load_state_dict(state["scaler"])
        if state.get("spikes") and self.stepper.spikes:
            self.stepper.spikes.restore(state["spikes"])
        self.position = Position.restored(state)
        self.feed.batch_size = self.position.batch_size or self.feed.batch_size
        if self.plan.deadline is not None and self.position.knots and not self.plan.is_extended:
            self.pace.course = Course(self.position.knots)
        self.set_rate(max(0, checkpoint.step - 1))
        self.saver.step = None if self.position.is_unfinished else checkpoint.step

    def run(self, stop: StopRequest) -> None:
        """Train to the last step, or until the time is up; on return the last step is saved.

        Raises:
            Stopped: a signal asked for it, after saving.
            DivergedError: too many steps in a row, a validation loss or the weights were not finite; the checkpoints
                before are whole.
        """
        position, self.stop = self.position, stop
        self.agreement = Agreement(self.world, stop, self.pace)
        stop.answer = "leave"
        self.model.train()
        self.began = time.perf_counter() - position.elapsed_seconds
        self.log_mark = (time.perf_counter(), position.tokens)
        is_over = (self.agreement.renew(position.step) or self.is_out_of_patience()) and not position.is_unfinished
        try:
            with Progress("train", self.pace.end, unit="steps", initial=position.step) as progress:
                while not is_over:
                    is_over = self.advance(progress)
                    if self.agreement.signum is not None:
                        self.require_saved()
                        raise self.stopped(self.agreement.signum)
            self.require_saved()
            stop.answer = "raise"
            if stop.signum is not None:
                raise self.stopped(stop.signum)
        finally:
            self.tell_if_unsaved()
            self.journal.close()

    def advance(self, progress: Progress) -> bool:
        """One step and the events that it calls for; returns whether it was the last.

        A stop that is asked for during the evaluation is answered at once: the position then says what is left to do.
        """
        config, position, pace = self.train_config, self.position, self.pace
        made = 0 if position.is_unfinished else 1
        if made:
            self.step()
            if config.fingerprints:
                batches = self.feed.make(position.step - 1)
                line = fingerprint(position.step, batches, self.plan.device, self.parts()[0])
                self.journal.append(self.journal.fingerprints, line)
        position.is_unfinished = False
        is_last = self.agreement.renew(position.step)
        evaluating = is_last or pace.is_due(position.step, config.eval_every_steps)
        logging = evaluating or pace.is_due(position.step, config.log_every_steps)
        sampling = pace.is_due(position.step, config.sample_every_steps)
        saving = is_last or pace.is_due(position.step, config.checkpoint_every_steps)
        if logging or sampling or saving:
            self.read_results()
        progress.retarget(pace.end)
        progress.update(made, loss=f"{position.latest.loss:.3f}", **position.figures())
        try:
            improved = self.evaluate() if evaluating else False
        except Interrupted:
            position.is_unfinished = True
            self.agreement.renew(position.step)
            return False
        if logging:
            self.log(position.latest, evaluated=evaluating)
        if evaluating:
            require_finite_loss(position.last_val_loss, position.step, self.config)
        if sampling:
            self.sample()
        if saving or (improved and config.keep_best):
            self.save()
        pace.lap(position.step)
        return is_last or self.is_out_of_patience()

    def is_out_of_patience(self) -> bool:
        return self.position.is_out_of_patience(self.train_config.patience)

    def step(self) -> None:
        """The next optimizer step. A GPU is given it before the result of the one before is read, so as never to idle.

        Raises:
            DivergedError: the last `max_bad_steps` steps that were read were not finite.
        """
        position = self.position
        with self.stepping():
            self.set_rate(position.step)
            self.world.work = f"step {position.step + 1}"
            seed = step_seed(self.config.seed, position.step, self.feed.share.number)
            pending = self.stepper.launch(self.feed.take(position.step), seed)
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
        if self.world.is_first:
            # All of the step, whatever share of it was this rank's.
            keep_bad_step(self.run_directory.path, step, result, self.feed.whole(step - 1), self.plan.data.tokenizer)
        if position.bad_steps >= self.train_config.max_bad_steps:
            raise bad_steps_in_a_row(position.bad_steps, step, self.config, self.run_directory.path)

    def evaluate(self) -> bool:
        """Measure the validation loss on its fixed part; returns whether it is the best so far.

        Raises:
            Interrupted: a signal asks to stop.
        """
        position = self.position
        self.world.work = f"the evaluation after step {position.step}"
        with self.pace.timing("evaluate"):
            self.validation = found = self.validator.measure(
                self.model, self.train_config.eval_tokens, self.agreement.is_stop_wanted
            )
        return position.evaluated(found.loss)

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
            "tokens_hash": self.tokens_hash(),
        }
        if evaluated and self.validation is not None:
            line |= {f"val_loss/{name}": value for name, value in self.validation.by_corpus.items()}
            line["val_loss_parts"] = [round(loss, 5) for loss in self.validation.parts]
        position.interval_loss, position.interval_steps = 0.0, 0
        self.journal.measured(position.step, line)
        if evaluated:
            train_loss = math.nan if line["train_loss"] is None else line["train_loss"]
            say(
                f"step {position.step:,}/{self.pace.end:,}: train loss {train_loss:.4f}, "
                f"val loss {position.last_val_loss:.4f}, {duration(position.elapsed_seconds)}"
            )

    def tokens_hash(self) -> str:
        """Of all that the last step read and predicted, on all ranks: the same however it was shared."""
        total = self.strategy.count(self.feed.hash_of(self.position.step - 1))
        return f"{total % 2**48:012x}"

    def sample(self) -> None:
        """Print and store a sample of generated text, without touching the training's randomness."""
        config = GenerationConfig(max_new_tokens=self.train_config.sample_tokens, seed=self.config.seed)
        # Gathered weights may be bf16, which only autocast puts up with.
        is_rounded = self.strategy.layout.is_sharded
        with self.pace.timing("sample"), autocast(self.plan.device, self.plan.precision if is_rounded else "fp32"):
            try:
                result = generate(self.model, self.plan.data.tokenizer, [self.train_config.sample_prompt], config)
            except GptcliError as error:  # such as weights that diverged: it is not for a sample to end the run
                return say(f"no sample at step {self.position.step:,}: {error}")
        text = self.train_config.sample_prompt + result.prompts[0].completions[0].text
        say(f"--- sample at step {self.position.step:,}\n{text}\n---")
        self.journal.append(self.journal.samples, {"step": self.position.step, "text": text})

    def save(self) -> None:
        """Begin to write a checkpoint of this step, unless that was done; waits only for the one before it."""
        position = self.position
        if self.world.first(lambda: self.saver.step == position.step):
            return
        self.read_results()
        self.tell_if_unsaved()
        self.world.work = f"the checkpoint of step {position.step}"
        with self.pace.timing("save"):
            parts, optimizer = self.parts()
            require_finite_state(parts, position.step, self.config, self.world)
            if self.strategy.group is None and not self.world.is_first:
                return
            if self.plan.clock is not None:
                if self.saver.seconds is not None:
                    self.pace.timings["write"].append(self.saver.seconds)
                position.spent_seconds, position.knots = self.plan.clock.spent(), self.pace.course.knots
            state = asdict(position) | {
                "val_loss": position.last_val_loss if position.evaluated_step == position.step else None,
                "optimizer": optimizer,
                "scaler": self.stepper.scaler.state_dict(),
                "spikes": self.stepper.spikes.state() if self.stepper.spikes else None,
                **identity(self.plan, self.world.size),
            }
            self.saver.submit(position.step, parts, state, before=self.journal.sync)

    def parts(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Weights and moments as a checkpoint keeps them, and the rest of the optimizer's state."""
        moments, rest = self.strategy.optimizer_state(self.optimizer)
        return {"model": self.strategy.weights(), "optimizer": moments}, rest

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
        self.world.barrier()

    def stopped(self, signum: int) -> Stopped:
        name = signal.Signals(signum).name
        return Stopped(
            f"stopped by {name} at step {self.position.step:,} of {self.pace.end:,}, saved",
            signum,
            f"go on with: {resume_command(self.run_directory.path)}",
        )
