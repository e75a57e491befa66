"""`train()`: from the user's settings to a finished, self-contained run directory."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gptcli import strict_json
from gptcli.checkpoint.run_directory import RUN_FILES, RunDirectory
from gptcli.config import RawConfig, check_keys, dump_toml, merge
from gptcli.console import say
from gptcli.data.shards import TokenShards
from gptcli.data.sketch import SKETCH
from gptcli.errors import CheckpointError, OutOfMemoryError, TokenizerError, UsageError
from gptcli.evaluate.baseline import CompressionBaseline
from gptcli.manifest import MANIFEST_NAME, read_manifest, record_new, replacing
from gptcli.nn.device import allow_tf32
from gptcli.parallel.layout import Layout
from gptcli.parallel.strategy import Strategy
from gptcli.parallel.world import World
from gptcli.storage import atomic_directory, copy_tree, default_cache_dir, remove_tree, write_atomic
from gptcli.tokenizer.files import WRITTEN_FILES
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer
from gptcli.train.checkpoint_identity import kept_fingerprint
from gptcli.train.config import RunConfig
from gptcli.train.events import training_events
from gptcli.train.finish import finish, good_checkpoint, validation_baseline
from gptcli.train.initial_checkpoint import InitialCheckpoint, keep_initial, keep_sketch, open_initial_checkpoint
from gptcli.train.loop import Trainer
from gptcli.train.planning.memory_check import fits, require_memory
from gptcli.train.planning.memory_estimate import rank_memory
from gptcli.train.planning.plan import Plan, make_plan, probe_step_seconds, settle_compile
from gptcli.train.planning.zero_config import DEFAULT_NAMES
from gptcli.train.rank_setup import Decision, PlanMessage, build_strategy, layout_of, require_shareable
from gptcli.train.reference import with_reference
from gptcli.train.request import TrainRequest, fresh_directory, named_run, resumable_run, settings_of
from gptcli.train.resume import NEW, History
from gptcli.train.screen import show_layout, show_plan
from gptcli.train.signals import StopRequest

RUN_KEY = "run"
"""The key under which a launcher's ranks store the run that they train."""
MAX_KEPT_VALIDATION_BYTES = 50_000_000
"""A validation split up to this size is copied into the run directory, so that `gptcli eval RUN` needs nothing else."""


def train(request: TrainRequest) -> dict[str, Any]:
    """Train as requested, in one process or in each of several ranks.

    Returns:
        The summary that `gptcli train --json` prints; for a dry run, the estimates.

    Raises:
        UsageError, DataError, CheckpointError, StorageError, DivergedError, OutOfMemoryError, Stopped.
    """
    request = named_run(request)
    with World.join() as world, StopRequest(is_repeated=world.size > 1) as stop:
        resumable = world.first(lambda: run_of_launch(request, world))
        with locked(resumable, world):
            return plan_and_train(request, resumable, world, stop)


def plan_and_train(
    request: TrainRequest, resumable: RunDirectory | None, world: World, stop: StopRequest
) -> dict[str, Any]:
    """Show what will happen, then do it unless this is a dry run. A run that is resumed is locked already.

    The first rank plans and writes, and all train. Where a launcher restarts the ranks, since one was lost or a
    machine joined, they continue their run.
    """
    if resumable and world.recall(RUN_KEY) is not None:  # --time was counted when the launcher's first ranks began
        request = replace(request, max_seconds=None)
    if resumable and world.is_first:
        drop_damaged_manifest(resumable)
    history = History.of(resumable) if resumable else NEW
    user = settings_of(request, history)
    check_keys(RunConfig, merge(DEFAULT_NAMES, user))
    layout = layout_of(user, world)
    initial = world.in_turn(lambda: open_initial_checkpoint(user, resumable))  # the first rank downloads it
    decisions = [decide(request, history, user, initial, layout)] if world.is_first else []
    message = world.first(lambda: PlanMessage.of(decisions[0]))
    own = decisions[0] if decisions else message.decision(initial, world)
    plan = replace(own.plan, device=world.device(own.plan.device))
    if request.dry_run:
        return estimates(plan, own.step_seconds)
    if not request.force:
        require_memory(plan.config, plan.memory_bytes, plan.device)
    allow_tf32(plan.config.train.tf32)
    world.connect(plan.device, plan.config.parallel.timeout_seconds)
    strategy = build_strategy(plan, world, layout, own.new_model)
    if resumable:
        return train_in(resumable, plan, strategy, stop, resumed=True)
    run = world.first(lambda: new_run(request, plan, world))
    with locked(run, world):
        return train_in(run, plan, strategy, stop, resumed=False)


def locked(run: RunDirectory | None, world: World) -> contextlib.AbstractContextManager[None]:
    """Return a context in which the first rank holds the lock of the run, if there is a run yet."""
    return run.lock() if run and world.is_first else contextlib.nullcontext()


def decide(
    request: TrainRequest, history: History, user: RawConfig, initial: InitialCheckpoint | None, layout: Layout
) -> Decision:
    """Plan the training on the first rank, and show the plan.

    The time budget of a resumed run began when the first process that trained it did. A process that is alone measures
    its steps where no budget has done that.
    """
    cache_dir = request.cache_dir or default_cache_dir()
    began = request.began - history.spent_seconds
    plan = make_plan(user, cache_dir, began, history=history, start=initial, force=request.force)
    require_shareable(plan, layout)
    memory = rank_memory(plan.config, plan.precision, plan.device.type, layout)
    plan = replace(plan, memory_bytes=memory.total)
    new_model = functools.cache(plan.new_model)
    allow_tf32(plan.config.train.tf32)
    step_seconds = plan.deadline.step_seconds if plan.deadline else None
    can_measure = layout.size == 1 and (request.force or fits(plan.config, plan.memory_bytes, plan.device))
    if step_seconds is None and can_measure:
        step_seconds = probe_step_seconds(plan, new_model())
    plan = settle_compile(plan, step_seconds)
    show_plan(plan, step_seconds)
    if layout.size > 1:
        show_layout(plan, layout)
    return Decision(plan, step_seconds, new_model)


def run_of_launch(request: TrainRequest, world: World) -> RunDirectory | None:
    """Return the run to resume: the one that earlier ranks of this launcher began, or the one that the user names."""
    begun = world.recall(RUN_KEY)
    if begun is None:
        return resumable_run(request)
    say(f"{world.size} ranks are restarted, to continue {begun}")
    return RunDirectory.open(Path(begun)) if RunDirectory.is_run(Path(begun)) else None


def new_run(request: TrainRequest, plan: Plan, world: World) -> RunDirectory:
    """Create the directory of a new run, and let the ranks that the launcher may start later know it."""
    begun = world.recall(RUN_KEY)
    run = RunDirectory.create(request.out or Path(begun or fresh_directory(plan.config.data.corpus)))
    world.remember(RUN_KEY, str(run.path))
    return run


def estimates(plan: Plan, step_seconds: float | None) -> dict[str, Any]:
    """Return the result of a dry run; its seconds are None where no step was measured."""
    steps = plan.steps
    return {
        "steps": steps,
        "tokens": steps * plan.config.train.tokens_per_step,
        "parameters": plan.parameters,
        "trained_parameters": plan.trained,
        "estimated_train_seconds": None if step_seconds is None else round(step_seconds * steps, 1),
        "estimated_memory_bytes": plan.memory_bytes,
    }


def train_in(run: RunDirectory, plan: Plan, strategy: Strategy, stop: StopRequest, *, resumed: bool) -> dict[str, Any]:
    """Train inside a locked run directory and leave it complete. All ranks call this, and the first one writes."""
    world = strategy.world
    for leftover in run.clean() if world.is_first else ():
        say(f"removed {leftover}, left behind by a process that was killed")
    plan = with_reference(plan, strategy)
    trainer = Trainer(plan, strategy, run, stop)
    if resumed:
        restore_newest(trainer, run)  # rejects another corpus before anything of the run is replaced
    step = trainer.state.step
    if (step == 0 or plan.is_extended) and trainer.length.is_over(step):
        raise UsageError("the time is up before the first step", "give more --time")
    if world.is_first:
        describe_run(run, plan)
        world.remember(RUN_KEY, str(run.path))
        if plan.start and trainer.state.step == 0:
            keep_initial(plan.start, plan.config.model, plan.data.tokenizer, run)
        record_new(run.path, RUN_FILES)
    # Before the training, so that a time budget includes it, and the peak of the memory is that of the training.
    baseline = validation_baseline(plan) if world.is_first else CompressionBaseline(None, reason="another rank has it")
    try:
        trainer.run(training_events(trainer))
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"{plan.device} has too little memory for micro-batches of {plan.config.train.batch_size} sequences",
            f"lower train.batch_size (the result stays the same) or set train.activation_checkpointing=full"
            f"{' or parallel.strategy=fsdp' if world.size > 1 and not strategy.layout.is_sharded else ''}",
        ) from error
    if plan.clock is not None and world.is_first:
        with replacing(run.path, ["run.toml"]):
            write_atomic(run.config_path, dump_toml(as_made(trainer)))
    return finish(trainer, baseline)


def as_made(trainer: Trainer) -> RunConfig:
    """Return the configuration that repeats a run under a deadline step by step: its steps and its breakpoints."""
    pace = " ".join(f"{step}:{end}" for step, end in trainer.length.scale.breakpoints)
    made = {"max_seconds": None, "max_steps": trainer.state.step, "pace": pace}
    config = trainer.config
    return config.model_copy(update={"train": config.train.model_copy(update=made)})


def describe_run(run: RunDirectory, plan: Plan) -> None:
    """Write what makes the directory self-contained: config, tokenizer, data report, text sketch, validation split."""
    with replacing(run.path, ("run.toml", "data.json", *WRITTEN_FILES, SKETCH, "val")):
        write_atomic(run.config_path, dump_toml(plan.config))
        plan.data.tokenizer.save(run.path)
        require_read_back(plan.data.tokenizer, run)
        write_atomic(run.path / "data.json", strict_json.dumps(plan.data.report, indent=2) + "\n")
        keep_sketch(plan.data.directory, plan.start, run)
        keep_validation(run, plan)


def require_read_back(tokenizer: Tokenizer, run: RunDirectory) -> None:
    """Open the tokenizer that was saved in the run, as every command will after the training.

    Raises:
        TokenizerError: it cannot be opened, or it differs from the one that was saved.
    """
    if load_tokenizer(run.path).fingerprint != tokenizer.fingerprint:
        raise TokenizerError(
            f"the tokenizer of {run.path} is another one when it is read again, so nothing was trained",
            "use another data.tokenizer",
        )


def keep_validation(run: RunDirectory, plan: Plan) -> None:
    """Copy the validation part into the run, unless it is there or is large.

    Raises:
        DataError: the cache's copy is damaged.
    """
    source = plan.data.val.directory
    kept = run.path / "val"
    if kept.exists() and kept_fingerprint(kept) != plan.data.val.fingerprint:  # of a text before the first checkpoint
        remove_tree(kept)
    if not kept.exists() and sum(file.stat().st_size for file in source.iterdir()) <= MAX_KEPT_VALIDATION_BYTES:
        with atomic_directory(kept) as folder:
            copy_tree(source, folder)
            TokenShards.open(folder).verify()


def drop_damaged_manifest(run: RunDirectory) -> None:
    """Remove a damaged manifest with a warning: the training writes the listed files again, and then the manifest."""
    try:
        read_manifest(run.path)
    except CheckpointError as error:
        say(f"warning: {str(error).partition(';')[0]}; it is written again")
        (run.path / MANIFEST_NAME).unlink()


def restore_newest(trainer: Trainer, run: RunDirectory) -> None:
    """Load the newest whole checkpoint into the trainer."""
    newest = good_checkpoint(trainer, run.last_good)
    if newest is None:
        say("the run has no checkpoint yet: starting from the beginning")
    else:
        trainer.restore(trainer.load(newest.path, ("model", "optimizer")))
        say(f"resumed at step {trainer.state.step:,} of {trainer.length.end:,}")
    trainer.logger.resume(trainer.state.step, is_unfinished=trainer.state.is_unfinished)
