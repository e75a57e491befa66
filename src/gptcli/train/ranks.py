"""From the plan that the first rank made to every rank's own, and from there to the model as the ranks share it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from gptcli.config import RawConfig, validate
from gptcli.config.load import with_origin
from gptcli.data.batches import Batches
from gptcli.data.cache import VerifiedShare
from gptcli.data.mix import open_mix
from gptcli.errors import DataError
from gptcli.models.gpt import GPT, build_model, initial_weights
from gptcli.nn.device import resolve_device
from gptcli.parallel.config import ParallelConfig
from gptcli.parallel.layout import Layout, lay_out, require_divisible, require_fitting
from gptcli.parallel.strategy import Alone, LossSum, Strategy
from gptcli.parallel.world import World
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.train.compiling import compiled
from gptcli.train.config import RunConfig
from gptcli.train.initial_checkpoint import InitialCheckpoint
from gptcli.train.planning.plan import Deadline, Plan


@dataclass(frozen=True)
class Decided:
    """What the first rank tells the others of its plan."""

    config: RunConfig
    precision: str
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

    @classmethod
    def of(cls, plan: Plan) -> Decided:
        # The clock is read by the first rank alone; the others follow it.
        deadline = plan.deadline and replace(plan.deadline, clock=None)
        numbers = (plan.config, plan.precision, plan.parameters, plan.memory_bytes, plan.cache_dir, deadline)
        data = plan.data
        directories = tuple(corpus.directory for corpus in data.corpora)
        return cls(*numbers, data.directory, directories, data.tokenizer, data.report, plan.is_extended)

    def plan(self, start: InitialCheckpoint | None, share: VerifiedShare) -> Plan:
        """The plan of a rank that did not make it.

        It verifies its share of the prepared data; a rank that finds damage ends all before the first step.

        Raises:
            DataError: the prepared data is not on this machine, or is damaged there.
        """
        if not self.directory.is_dir():
            raise DataError(
                f"{self.directory}, which the first rank prepared, is not on this machine",
                "let --cache-dir be a directory that all machines share",
            )
        config = self.config
        data = open_mix(config.data, self.directory, self.directories, self.tokenizer, self.report, share)
        return Plan(
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
            start=start,
            is_extended=self.is_extended,
        )


def layout_of(user: RawConfig, world: World) -> Layout:
    """How the user's settings lay out the ranks, before anything is read.

    Raises:
        UsageError: they cannot be laid out so.
    """
    settings = validate(ParallelConfig, with_origin(user.values.get("parallel", {}), "[parallel]"))
    return lay_out(settings, world.rank, world.size)


def require_shareable(plan: Plan, layout: Layout) -> None:
    """Raises UsageError: the steps of this plan, or its model, cannot be shared so."""
    train = plan.config.train
    batch = f"train.tokens_per_step {train.tokens_per_step} by a length of {plan.config.seq_len}"
    require_divisible(layout, plan.config.sequences_per_step, batch)
    require_fitting(layout, plan.config.model, plan.precision)


def alone(plan: Plan, model: GPT) -> Alone:
    """Return the strategy of one process that trains `model`."""
    return Alone(model, loss_of(plan, model))


def loss_of(plan: Plan, model: GPT) -> LossSum:
    """Return the loss of a whole model, compiled where the plan says so."""
    return compiled(model.loss_sum, plan.cache_dir) if plan.config.train.compile else model.loss_sum


def shared(plan: Plan, world: World, layout: Layout) -> Strategy:
    """Return the strategy of this rank of several, with its model before the first step."""
    from gptcli.parallel.distributed import Replicated, Sharded

    config = plan.config
    if not layout.is_sharded:
        model = plan.new_model()
        return Replicated(model, world, layout, loss_of(plan, model))
    from gptcli.parallel.sharded import build_sharded, compile_blocks

    weights = starting_weights(plan)
    model = build_sharded(config.model, weights, layout, config.parallel, plan.device, plan.precision)
    model.recompute(config.train.activation_checkpointing)
    if config.train.compile:
        compile_blocks(model, plan.cache_dir)
    return Sharded(model, world, layout)


def starting_weights(plan: Plan) -> Iterator[tuple[str, Tensor]]:
    """(name, whole tensor) of each weight before the first step."""
    if plan.start:
        return iter(plan.start.weights.items())
    return initial_weights(build_model(plan.config.model, device="meta"), plan.config.seed)
