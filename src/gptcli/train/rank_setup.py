"""The setup of each rank before the first step: the first rank's plan, and the rank's layout, strategy and model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from gptcli.config import RawConfig, validate
from gptcli.config.load import with_origin
from gptcli.data.batches import Batches
from gptcli.data.cache import VerifiedShare
from gptcli.data.mix import open_mix
from gptcli.errors import DataError, UsageError
from gptcli.models.gpt import GPT, build_model, initial_weights
from gptcli.nn.device import ResolvedPrecision, resolve_device
from gptcli.objective.build import build_objective
from gptcli.parallel.config import ParallelConfig
from gptcli.parallel.layout import Layout, lay_out, require_divisible, require_fitting
from gptcli.parallel.strategy import Alone, Strategy
from gptcli.parallel.world import World
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.train.compiling import compiled
from gptcli.train.config import RunConfig
from gptcli.train.initial_checkpoint import InitialCheckpoint, has_adapter
from gptcli.train.planning.plan import Deadline, Plan


class Decision(NamedTuple):
    """A plan that was shown, with the seconds of a step where they are known, and the function that makes its model.

    The function makes the model once: where steps were measured, training uses the same model.
    """

    plan: Plan
    step_seconds: float | None
    new_model: Callable[[], GPT]


@dataclass(frozen=True)
class PlanMessage:
    """The parts of the first rank's decision from which the other ranks make the same plan."""

    config: RunConfig
    precision: ResolvedPrecision
    parameters: int
    memory_bytes: int
    cache_dir: Path
    deadline: Deadline | None
    directory: Path
    directories: tuple[Path, ...]
    """The directory of each corpus."""
    tokenizer: Tokenizer
    report: dict[str, Any]
    is_extended: bool
    step_seconds: float | None

    @classmethod
    def of(cls, decision: Decision) -> PlanMessage:
        """Return the message of a decision."""
        plan = decision.plan
        # Only the first rank reads the clock; the others follow it.
        deadline = plan.deadline and replace(plan.deadline, clock=None)
        numbers = (plan.config, plan.precision, plan.parameters, plan.memory_bytes, plan.cache_dir, deadline)
        data = plan.data
        directories = tuple(corpus.directory for corpus in data.corpora)
        prepared = (data.directory, directories, data.tokenizer, data.report)
        return cls(*numbers, *prepared, plan.is_extended, decision.step_seconds)

    def decision(self, initial: InitialCheckpoint | None, world: World) -> Decision:
        """Return the decision on a rank that did not make it.

        The rank verifies its share of the prepared data; if it finds damage, all ranks end before the first step.

        Raises:
            DataError: the prepared data is not on this machine, or is damaged there.
        """
        if not self.directory.is_dir():
            raise DataError(
                f"{self.directory}, which the first rank prepared, is not on this machine",
                "let --cache-dir be a directory that all machines share",
            )
        config, share = self.config, VerifiedShare(world.local_rank % world.local_size, world.local_size)
        data = open_mix(config.data, self.directory, self.directories, self.tokenizer, self.report, share)
        plan = Plan(
            config=config,
            chosen=(),
            scan=None,
            data=data,
            batches=Batches(data.train, config.seq_len, config.seed, config.data.pack),
            device=resolve_device(config.device),
            precision=self.precision,
            parameters=self.parameters,
            memory_bytes=self.memory_bytes,
            cache_dir=self.cache_dir,
            deadline=self.deadline,
            start=initial,
            is_extended=self.is_extended,
        )
        return Decision(plan, self.step_seconds, functools.cache(plan.new_model))


def layout_of(user: RawConfig, world: World) -> Layout:
    """Return how the user's settings lay out the ranks, before anything is read; one process needs no layout.

    Raises:
        UsageError: the ranks cannot be laid out so.
    """
    if world.size == 1:
        return Layout()
    settings = validate(ParallelConfig, with_origin(user.values.get("parallel", {}), "[parallel]"))
    layout = lay_out(settings, world.rank, world.size)
    if layout.is_sharded and has_adapter(user):
        raise UsageError(
            "an adapter (adapter.name) needs whole weights on every rank, and parallel.strategy=fsdp and "
            "parallel.tensor shard them",
            "set parallel.strategy=ddp and parallel.tensor=1",
        )
    return layout


def require_shareable(plan: Plan, layout: Layout) -> None:
    """Raise UsageError where the steps of this plan, or its model, cannot be shared so."""
    config = plan.config
    require_divisible(layout, config.sequences_per_step, config.seq_len, "--set train.tokens_per_step=")
    require_fitting(layout, plan.config.model, plan.precision)


def build_strategy(plan: Plan, world: World, layout: Layout, new_model: Callable[[], GPT]) -> Strategy:
    """Return this rank's strategy, with its model before the first step. Whole models are those of `new_model`."""
    config, cache_dir = plan.config, plan.cache_dir
    objective = build_objective(config.objective)
    if layout.is_sharded:
        from gptcli.parallel.distributed import Sharded
        from gptcli.parallel.sharded import build_sharded, compile_blocks

        weights = starting_weights(plan)
        model = build_sharded(config.model, weights, layout, config.parallel, plan.device, plan.precision)
        model.recompute(config.train.activation_checkpointing)
        if config.train.compile:
            compile_blocks(model, cache_dir)
        return Sharded(model, world, layout, objective)
    model = new_model()
    loss_function = objective.loss_function(model)
    if config.train.compile:
        loss_function = compiled(loss_function, cache_dir)
    if world.size == 1:
        return Alone(model, loss_function, objective)
    from gptcli.parallel.distributed import Replicated

    return Replicated(model, world, layout, loss_function, objective)


def starting_weights(plan: Plan) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the whole tensor of each weight before the first step."""
    if plan.start:
        return iter(plan.start.weights.items())
    return initial_weights(build_model(plan.config.model, device="meta"), plan.config.seed)
