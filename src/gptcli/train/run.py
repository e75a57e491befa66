"""`train()`: one call from the user's settings to a finished, self-contained run directory."""

from __future__ import annotations

import contextlib
import glob
import json
import re
import shutil
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gptcli.checkpoint.load import load_checkpoint
from gptcli.checkpoint.run import RunDirectory
from gptcli.config import RawConfig, check_keys, dump_toml, merge, read_toml
from gptcli.config.load import with_origin
from gptcli.config.shipped import read_settings
from gptcli.console import say, size
from gptcli.data.prepare import default_cache_dir
from gptcli.errors import CheckpointError, ConfigError, OutOfMemoryError, UsageError
from gptcli.models.gpt import GPT
from gptcli.nn.device import allow_tf32
from gptcli.parallel.layout import Layout
from gptcli.parallel.world import World
from gptcli.storage import atomic_directory, write_atomic
from gptcli.train.config import RunConfig
from gptcli.train.finish import finish, good_one, validation_yardstick
from gptcli.train.footprint import rank_memory
from gptcli.train.loop import Trainer
from gptcli.train.plan import Plan, is_timed, machine_memory_bytes, make_plan, probe_step_seconds, settle_compile
from gptcli.train.ranks import Decided, layout_of, require_shareable, shared_model
from gptcli.train.screen import show_layout, show_plan
from gptcli.train.signals import StopRequest
from gptcli.train.start import Start, keep_copy, open_start, require_same_start
from gptcli.train.zero_config import NAMES

if TYPE_CHECKING:  # it loads torch.distributed, which a process that trains alone does without
    from gptcli.parallel.strategy import Strategy

RUNS = Path("runs")
"""Where runs are made for which no --out is given."""
RUN_KEY = "run"
"""Under which a launcher's ranks put down the run that they train."""
MAX_KEPT_VALIDATION_BYTES = 50_000_000
"""A validation split up to this size is copied into the run directory, so that `gptcli eval RUN` needs nothing else."""


@dataclass(frozen=True)
class TrainRequest:
    """What the user typed."""

    corpus: tuple[str, ...] = ()
    config_files: tuple[str, ...] = ()
    assignments: tuple[str, ...] = ()
    out: Path | None = None
    resume: bool = False
    dry_run: bool = False
    cache_dir: Path | None = None
    init_from: str | None = None
    """The model to start from, as `--init-from` gives it; none: what the settings say."""
    max_seconds: float | None = None
    """The time budget, as `--time` gives it; none: what the settings say."""
    began: float = field(default_factory=time.monotonic)
    """When the budget began to run, as `time.monotonic()` counts: the start of the process, where that is known."""


def train(request: TrainRequest) -> dict[str, Any]:
    """Train as requested; returns the summary that `gptcli train --json` prints, of a dry run the estimates.

    Raises:
        UsageError, DataError, CheckpointError, StorageError, DivergedError, OutOfMemoryError, Stopped.
    """
    with World.join() as world, StopRequest(is_repeated=world.size > 1) as stop:
        if world.size > 1:
            return train_together(request, world, stop)
        resumable = resumable_run(request)
        with resumable.lock() if resumable else contextlib.nullcontext():
            return plan_and_train(request, resumable, stop)


def plan_and_train(request: TrainRequest, resumable: RunDirectory | None, stop: StopRequest) -> dict[str, Any]:
    """Show what will happen, then do it unless this is a dry run. A run that is resumed is locked already."""
    user = checked_settings(request, resumable)
    start = open_start(user, resumable)
    plan = plan_of(request, resumable, user, start)
    out = request.out or fresh_directory(plan.config.data.corpus)
    model = None
    if plan.memory_bytes <= machine_memory_bytes(plan.device):
        model = plan.new_model()
    allow_tf32(plan.config.train.tf32)
    step_seconds = plan.deadline.step_seconds if plan.deadline else None
    if step_seconds is None and model is not None:
        step_seconds = probe_step_seconds(plan, model)
    plan = settle_compile(plan, step_seconds)
    show_plan(plan, step_seconds)
    if request.dry_run:
        return estimates(plan, step_seconds)
    if model is None:
        raise OutOfMemoryError(
            f"training needs about {size(plan.memory_bytes)} and {plan.device} has "
            f"{size(machine_memory_bytes(plan.device))}",
            "choose a smaller model, train.batch_size or context, or set train.activation_checkpointing=full",
        )
    if resumable:
        return train_in(resumable, plan, model, stop, resumed=True)
    run = RunDirectory.create(out)
    with run.lock():
        return train_in(run, plan, model, stop, resumed=False)


def checked_settings(request: TrainRequest, resumable: RunDirectory | None) -> RawConfig:
    """What the user set, with every key known and every value of its kind."""
    user = user_settings(request, resumable)
    check_keys(RunConfig, merge(NAMES, user))
    return user


def plan_of(request: TrainRequest, resumable: RunDirectory | None, user: RawConfig, start: Start | None) -> Plan:
    """The plan for these settings, whose time budget began when the first process that trained this run did."""
    began = request.began - (spent_before(resumable) if resumable and is_timed(user) else 0.0)
    cache_dir = request.cache_dir or default_cache_dir()
    return make_plan(user, cache_dir, began, resumed=resumable is not None, start=start)


def train_together(request: TrainRequest, world: World, stop: StopRequest) -> dict[str, Any]:
    """What each rank of several does: the first one plans, talks and writes, and all of them train.

    When a launcher starts the ranks anew, since one was lost or a machine joined, they go on with their run.
    """
    resumable = world.first(lambda: run_of_launch(request, world))
    with resumable.lock() if resumable and world.is_first else contextlib.nullcontext():
        user = checked_settings(request, resumable)
        layout = layout_of(user, world)
        world.first(lambda: None if resumable else open_start(user, None))  # so that one rank downloads it
        start = open_start(user, resumable)
        plan = plan_together(request, resumable, user, start, world, layout)
        if request.dry_run:
            return estimates(plan, plan.deadline and plan.deadline.step_seconds)
        allow_tf32(plan.config.train.tf32)
        world.connect(plan.device, plan.config.parallel.timeout_seconds)
        model, strategy = shared_model(plan, world, layout)
        if resumable:
            return train_in(resumable, plan, model, stop, resumed=True, world=world, strategy=strategy)
        run = world.first(lambda: new_run(request, plan, world))
        with run.lock() if world.is_first else contextlib.nullcontext():
            return train_in(run, plan, model, stop, resumed=False, world=world, strategy=strategy)


def run_of_launch(request: TrainRequest, world: World) -> RunDirectory | None:
    """The run to go on with: the one that the same launcher's ranks have begun before, or as the user says."""
    begun = world.recall(RUN_KEY)
    if begun is None:
        return resumable_run(request)
    say(f"{world.size} ranks are started anew, to go on with {begun}")
    return RunDirectory.open(Path(begun)) if RunDirectory.is_run(Path(begun)) else None


def new_run(request: TrainRequest, plan: Plan, world: World) -> RunDirectory:
    """The directory of a new run, of which the launcher's later ranks will know."""
    begun = world.recall(RUN_KEY)
    run = RunDirectory.create(request.out or Path(begun or fresh_directory(plan.config.data.corpus)))
    world.remember(RUN_KEY, str(run.path))
    return run


def plan_together(
    request: TrainRequest,
    resumable: RunDirectory | None,
    user: RawConfig,
    start: Start | None,
    world: World,
    layout: Layout,
) -> Plan:
    """The first rank's plan, on every rank with its own device."""
    made: list[Plan] = []

    def decide() -> Decided:
        plan = plan_of(request, resumable, user, start)
        require_shareable(plan, layout)
        of_rank = rank_memory(plan.config, plan.precision, plan.device.type, layout)
        plan = replace(plan, memory_bytes=of_rank.total)
        step_seconds = plan.deadline and plan.deadline.step_seconds
        plan = settle_compile(plan, step_seconds)
        show_plan(plan, step_seconds)
        show_layout(plan, layout)
        made.append(plan)
        return Decided.of(plan)

    decided = world.first(decide)
    plan = made[0] if made else decided.plan(start)
    return replace(plan, device=world.device(plan.device))


def estimates(plan: Plan, step_seconds: float | None) -> dict[str, Any]:
    """What a dry run returns; the seconds are none where the model does not fit this machine."""
    steps = plan.steps
    return {
        "steps": steps,
        "tokens": steps * plan.config.train.tokens_per_step,
        "parameters": plan.parameters,
        "estimated_train_seconds": None if step_seconds is None else round(step_seconds * steps, 1),
        "estimated_memory_bytes": plan.memory_bytes,
    }


def train_in(
    run: RunDirectory,
    plan: Plan,
    model: GPT,
    stop: StopRequest,
    *,
    resumed: bool,
    world: World | None = None,
    strategy: Strategy | None = None,
) -> dict[str, Any]:
    """Train inside a locked run directory and leave it complete. Of several ranks all call it, and the first writes."""
    world = world or World()
    for leftover in run.clean() if world.is_first else ():
        say(f"removed {leftover}, left behind by a process that was killed")
    trainer = Trainer(plan, model, run, world, strategy)
    if resumed:
        restore_newest(trainer, run)  # refuses another corpus before anything of the run is replaced
    if world.is_first:
        describe_run(run, plan)
        if plan.start and trainer.position.step == 0:
            keep_copy(plan.start.build(plan.config.model, torch.device("cpu")), plan.data.tokenizer, run)
    if trainer.position.step == 0 and trainer.pace.is_over(0):
        raise UsageError("the time is up before the first step", "give more --time")
    # Before the training, so that a time budget is planned with what this took, and the peak of memory is training's.
    yardstick = validation_yardstick(plan) if world.is_first else None
    try:
        trainer.run(stop)
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"{plan.device} has too little memory for micro-batches of {plan.config.train.batch_size} sequences",
            f"lower train.batch_size (the result stays the same) or set train.activation_checkpointing=full"
            f"{' or parallel.strategy=fsdp' if strategy and not strategy.layout.is_sharded else ''}",
        ) from error
    if plan.clock is not None:
        write_atomic(run.config_path, dump_toml(as_made(trainer)))
    return finish(trainer, yardstick)


def as_made(trainer: Trainer) -> RunConfig:
    """The configuration that repeats a run under a deadline step by step: as many steps, on the same course."""
    pace = " ".join(f"{step}:{end}" for step, end in trainer.pace.course.knots)
    made = {"max_seconds": None, "max_steps": trainer.position.step, "pace": pace}
    config = trainer.config
    return config.model_copy(update={"train": config.train.model_copy(update=made)})


def resumable_run(request: TrainRequest) -> RunDirectory | None:
    """The run to go on with, or none to begin one; refuses to begin where one already is."""
    if request.resume:
        if request.out is None:
            raise UsageError("--resume needs to know which run", "name it: --out runs/NAME")
        if RunDirectory.is_run(request.out):
            return RunDirectory.open(request.out)
        if not request.corpus and not request.config_files:
            raise CheckpointError(f"{request.out} is no run directory: nothing to resume", "check the path")
        say(f"{request.out} holds no run yet: starting from the beginning")
    elif request.out is not None and RunDirectory.is_run(request.out) and not request.dry_run:
        raise UsageError(f"{request.out} already holds a run", "add --resume to go on with it, or choose another --out")
    if not request.dry_run:
        RunDirectory.require_creatable(request.out or fresh_directory(request.corpus))
    return None


def user_settings(request: TrainRequest, resumable: RunDirectory | None) -> RawConfig:
    """What the user set: the resumed run's own settings, then -c files, --set values and CORPUS arguments."""
    base = read_toml(resumable.config_path) if resumable else None
    settings = read_settings(request.config_files, request.assignments, base)
    corpus = {"data": {"corpus": list(request.corpus)}} if request.corpus else {}
    seconds = {"train": {"max_seconds": request.max_seconds}} if request.max_seconds is not None else {}
    start = {"train": {"init_from": request.init_from}} if request.init_from else {}
    options = ((corpus, "CORPUS"), (seconds, "--time"), (start, "--init-from"))
    merged = merge(settings, *(with_origin(values, origin) for values, origin in options))
    if resumable and base:
        if is_timed(merged) and not is_timed(base):
            raise ConfigError(
                f"{resumable.path} ends after its last step, not after some time", "begin anew from it: --init-from"
            )
        require_same_start(merged, base, resumable)
    return merged


def spent_before(run: RunDirectory) -> float:
    """Seconds of its time budget that a run had spent at its newest checkpoint."""
    newest = run.last_good()
    return load_checkpoint(newest.path, parts=()).state.get("spent_seconds", 0.0) if newest else 0.0


def fresh_directory(corpus: tuple[str, ...]) -> Path:
    """`runs/NAME` after the corpus, or the mix if there is none, with a number if there is one of that name already."""
    corpus = corpus or ("mix",)
    path = Path(corpus[0])
    # The name of a glob such as texts/*.txt or texts/**/*.md is that of the directory that it looks in.
    plain = [part for part in (path, *path.parents) if not any(glob.has_magic(p) for p in part.parts)]
    stem = (plain[0].name or plain[0].resolve().name).split(".")[0] if corpus[0] != "-" else "stdin"
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "run"
    candidates = (RUNS / (name if n == 1 else f"{name}-{n}") for n in range(1, sys.maxsize))
    return next(path for path in candidates if not path.exists())


def describe_run(run: RunDirectory, plan: Plan) -> None:
    """Write what makes the directory self-contained: config, tokenizer, data report, validation split."""
    write_atomic(run.config_path, dump_toml(plan.config))
    plan.data.tokenizer.save(run.path)
    write_atomic(run.path / "data.json", json.dumps(plan.data.report, indent=2) + "\n")
    source = plan.data.val.directory
    kept = run.path / "val"
    if not kept.exists() and sum(file.stat().st_size for file in source.iterdir()) <= MAX_KEPT_VALIDATION_BYTES:
        with atomic_directory(kept) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)


def restore_newest(trainer: Trainer, run: RunDirectory) -> None:
    """Put the trainer where the newest whole checkpoint stands."""
    newest = good_one(trainer, run.last_good)
    if newest is None:
        say("the run has no checkpoint yet: starting from the beginning")
    else:
        trainer.restore(trainer.load(newest.path, ("model", "optimizer")))
        say(f"resumed at step {trainer.position.step:,} of {trainer.pace.end:,}")
    trainer.journal.forget_later_lines(trainer.position.step, is_unfinished=trainer.position.is_unfinished)
