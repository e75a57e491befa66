"""The training loop: optimizer steps, and the events that are due between them.

The step number alone decides what happens between steps, and every step is a function of the weights and (seed, step).
A run that was stopped and resumed therefore passes through the same weights as one that was not.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from gptcli.checkpoint.background import BackgroundSaver
from gptcli.checkpoint.load import Checkpoint
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.console import Progress, say
from gptcli.errors import Stopped
from gptcli.evaluate.shards import Interrupted, ShardScorer
from gptcli.optim.build import build_optimizer
from gptcli.optim.schedule import lr_factor, set_lr
from gptcli.parallel.strategy import Strategy
from gptcli.train.bad_steps import keep_bad_step, reason_of
from gptcli.train.checkpoint_identity import identity, require_same_training
from gptcli.train.divergence import bad_steps_in_a_row, load_finite, require_finite_state
from gptcli.train.fingerprints import fingerprint
from gptcli.train.planning.plan import Plan
from gptcli.train.prefetcher import Prefetcher
from gptcli.train.resume import resume_command
from gptcli.train.run_logger import RunLogger
from gptcli.train.signals import StopRequest
from gptcli.train.step import DataShare, PendingStep, Stepper, StepResult, step_seed
from gptcli.train.stop_consensus import StopConsensus
from gptcli.train.train_state import TrainState
from gptcli.train.validation import Validator


class Event(Protocol):
    """Something that happens between two steps; `events.py` has those of a training."""

    def due(self, step: int, is_last: bool) -> bool:
        """Return whether it happens after `step`; `is_last` says that the run ends with it."""

    def run(self) -> None:
        """Do it; on all ranks, which call this alike.

        Raises:
            Interrupted: a signal asks to stop. This event and those after it are done when the run is resumed.
        """


class Trainer:
    """Trains the model of `strategy` by `plan`, from step 0 or from the checkpoint that `restore` loads.

    The ranks of `strategy` make every call alike, and the first one writes to `run`.
    """

    def __init__(self, plan: Plan, strategy: Strategy, run: RunDirectory, stop: StopRequest) -> None:
        config, train = plan.config, plan.config.train
        self.plan, self.run_directory, self.stop = plan, run, stop
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
        share = DataShare(strategy.layout.data_rank, strategy.layout.data_ranks)
        self.prefetcher = Prefetcher(plan.batches, config.sequences_per_step, train.batch_size, plan.device, share)
        self.pending: deque[tuple[int, PendingStep]] = deque()
        scorer = ShardScorer(strategy, config.seq_len, train.batch_size, plan.device, plan.precision, config.data.pack)
        self.validator = Validator(plan.data, scorer)
        self.state, self.length = TrainState(), plan.new_run_length()
        self.consensus = StopConsensus(self.world, stop, self.length)
        self.logger = RunLogger(run, config, writes=self.world.is_first)
        self.saver = BackgroundSaver(
            run,
            keep_last=train.keep_last,
            keep_best=train.keep_best,
            keep_every_steps=train.keep_every_steps,
            group=strategy.group,
        )
        self.began = time.perf_counter()

    def load(self, path: Path, parts: Sequence[str]) -> Checkpoint:
        """Read parts of a checkpoint in the form that the strategy loads."""
        return load_finite(path, parts, self.strategy)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint: weights, moments, scaler and state. Writes nothing."""
        saved = checkpoint.state
        require_same_training(saved, self.plan, self.run_directory, self.world.size)
        self.strategy.load_weights(checkpoint.tensors["model"])
        self.strategy.load_optimizer_state(self.optimizer, checkpoint.tensors["optimizer"], saved["optimizer"])
        self.stepper.restore(saved)
        self.state.restore(saved)
        self.prefetcher.limit(self.state.batch_size)
        if self.plan.deadline is not None and not self.plan.is_extended:
            self.length.resume(self.state.knots)
        self.set_rate(max(0, checkpoint.step - 1))
        if not self.state.is_unfinished:
            self.saver.resumed(checkpoint.step)

    def run(self, events: Sequence[Event]) -> None:
        """Train to the last step, or until the time is up; on return the last step is saved.

        Raises:
            Stopped: a signal asked for it; this step is saved.
            DivergedError: too many steps in a row, a validation loss or the weights were not finite; the checkpoints
                before are whole.
        """
        state = self.state
        self.stop.respond("leave")
        self.model.train()
        self.began = time.perf_counter() - state.elapsed_seconds
        is_over = (self.consensus.update(state.step) or self.is_out_of_patience()) and not state.is_unfinished
        try:
            with Progress("train", self.length.end, unit="steps", initial=state.step) as progress:
                while not is_over:
                    is_over = self.advance(events, progress)
                    if self.consensus.signum is not None:
                        self.require_saved()
                        raise self.stopped(self.consensus.signum)
            self.require_saved()
            self.stop.respond("raise")
            if self.stop.signum is not None:
                raise self.stopped(self.stop.signum)
        finally:
            self.warn_if_unsaved()
            self.logger.close()

    def advance(self, events: Sequence[Event], progress: Progress) -> bool:
        """Run one step and the events that are due after it; return whether it was the last.

        A stop during the evaluation is answered at once: `is_unfinished` then leaves the events to the resumed run.
        """
        state, steps = self.state, 0 if self.state.is_unfinished else 1
        if steps:
            self.step()
            if self.train_config.fingerprints:
                self.log_fingerprint()
        state.is_unfinished = False
        is_last = self.consensus.update(state.step)
        if any(event.due(state.step, is_last) for event in events):
            self.read_results()
        progress.retarget(self.length.end)
        latest = dict(zip(self.strategy.objective.figure_names, state.latest.figures, strict=False))
        shown = self.strategy.objective.shown_figures(latest)
        progress.update(steps, loss=f"{state.latest.loss:.3f}", **shown, **state.figures())
        try:
            for event in events:
                if event.due(state.step, is_last):
                    event.run()
        except Interrupted:
            state.is_unfinished = True
            self.consensus.update(state.step)
            return False
        self.length.lap(state.step)
        return is_last or self.is_out_of_patience()

    @property
    def evaluated_tokens(self) -> int:
        """The validation tokens that each evaluation during the training scores."""
        return min(self.train_config.eval_tokens, len(self.plan.data.val) - 1)

    def is_out_of_patience(self) -> bool:
        """Return whether `train.patience` ends the run."""
        return self.state.is_out_of_patience(self.train_config.patience)

    def step(self) -> None:
        """Run the next optimizer step. A GPU gets it before the result of the last one is read, so it never idles.

        Raises:
            DivergedError: the last `max_bad_steps` steps that were read were not finite.
        """
        state = self.state
        with self.stepping():
            self.set_rate(state.step)
            self.world.work = f"step {state.step + 1}"
            seed = step_seed(self.config.seed, state.step, self.prefetcher.share.number)
            pending = self.stepper.launch(self.prefetcher.take(state.step), seed)
            state.batch_size = self.stepper.batch_size or state.batch_size
            self.prefetcher.limit(state.batch_size)
            state.step += 1
            state.tokens += pending.tokens
            self.pending.append((state.step, pending))
        self.stop.respond("remember")
        self.read_results(but=1 if self.stepper.decides_on_device and state.has_results else 0)

    def set_rate(self, step: int) -> None:
        """Set the learning rates of `step` (counted from 0)."""
        config, scale = self.config, self.length.scale
        factor = lr_factor(config.schedule, scale.position(step), scale.length, config.optim.lr)
        set_lr(self.optimizer, factor)

    def read_results(self, but: int = 0) -> None:
        """Read the results of the steps launched so far, all `but` the newest few."""
        with self.stepping():
            while len(self.pending) > but:
                step, pending = self.pending.popleft()
                self.count(step, pending.result())

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Count the time within as time of the steps."""
        began = time.perf_counter()
        yield
        ended = time.perf_counter()
        self.state.stepping_seconds += ended - began
        self.state.elapsed_seconds = ended - self.began

    def count(self, step: int, result: StepResult) -> None:
        """Count the result of `step`, and keep a bad step's text.

        Raises:
            DivergedError: it is the last of `max_bad_steps` bad steps in a row.
        """
        is_bad = self.stepper.is_bad(result)
        self.state.count(result, is_bad)
        if not is_bad:
            return
        say(f"step {step}: loss {result.loss}, gradient norm {result.grad_norm}: {reason_of(result)}; it is skipped")
        if self.world.is_first:
            batches = self.prefetcher.whole(step - 1)  # of all ranks
            keep_bad_step(self.run_directory.path, step, result, batches, self.plan.data.tokenizer)
        if self.state.bad_steps >= self.train_config.max_bad_steps:
            raise bad_steps_in_a_row(self.state.bad_steps, step, self.config, self.run_directory.path)

    def log_fingerprint(self) -> None:
        """Write the fingerprint of the step that was just made."""
        batches = self.prefetcher.make(self.state.step - 1)
        self.logger.log_fingerprint(fingerprint(self.state.step, batches, self.plan.device, self.parts()[0]))

    def tokens_hash(self) -> str:
        """Return the hash of all tokens that the last step read and predicted, on all ranks together."""
        [total] = self.strategy.counts([self.prefetcher.hash_of(self.state.step - 1)])
        return f"{total % 2**48:012x}"

    def save(self) -> None:
        """Begin to write a checkpoint of this step, unless that was done; wait only for the one before it.

        Raises:
            DivergedError: a weight or a moment is not finite.
        """
        state = self.state
        if self.world.first(lambda: self.saver.has(state.step)):
            return
        self.read_results()
        self.warn_if_unsaved()
        self.world.work = f"the checkpoint of step {state.step}"
        with self.length.timing("save"):
            parts, optimizer = self.parts()
            require_finite_state(parts, state.step, self.config, self.world)
            if self.strategy.group is None and not self.world.is_first:
                return
            if self.saver.seconds is not None:
                self.length.add_timing("write", self.saver.seconds)
            self.length.save(state)
            saved = asdict(state) | {
                "val_loss": state.val_loss,
                "optimizer": optimizer,
                **self.stepper.state(),
                **identity(self.plan, self.world.size),
            }
            self.saver.submit(state.step, parts, saved, before=self.logger.sync)

    def parts(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Return weights and moments in the form of a checkpoint, and the rest of the optimizer's state."""
        moments, rest = self.strategy.optimizer_state(self.optimizer)
        return {"model": self.strategy.weights(), "optimizer": moments}, rest

    def warn_if_unsaved(self) -> None:
        """Wait for the save in progress, if there is one; after one that failed, warn and let the training go on."""
        error = self.saver.wait()
        if error is not None:
            say(f"warning: {error}")

    def require_saved(self) -> None:
        """Wait until this step is saved, since the run ends here; a save that failed is tried once more.

        Raises:
            StorageError: the step cannot be saved; the checkpoints before are whole.
        """
        self.warn_if_unsaved()
        self.save()
        error = self.saver.wait()
        if error is not None:
            raise error
        self.world.barrier()

    def stopped(self, signum: int) -> Stopped:
        """Return the error with which a signal ends the run after this step."""
        name = signal.Signals(signum).name
        return Stopped(
            f"stopped by {name} at step {self.state.step:,} of {self.length.end:,}, saved",
            signum,
            f"go on with: {resume_command(self.run_directory.path)}",
        )
