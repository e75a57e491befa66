"""The nats of preferences under the model that training starts from, which DPO measures rewards from.

They are computed once, before the first step, and kept in the cache by what decides them: the tokens, the weights and
the precision. A resumed run finds them there, or computes them again from the same weights.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gptcli.console import Progress
from gptcli.data.batches import Batches
from gptcli.data.cache import cache_key, is_whole, new_entry, only_writer, require_whole
from gptcli.data.shards import TokenShards
from gptcli.errors import CheckpointError
from gptcli.evaluate.scoring import evaluation_mode
from gptcli.evaluate.shard_windows import ExampleWindows
from gptcli.evaluate.shards import ShardScorer
from gptcli.interop.base_reference import tensors_sha256
from gptcli.models.config import WITHOUT_EFFECT
from gptcli.nn.device import autocast
from gptcli.parallel.strategy import Strategy
from gptcli.storage import write_file
from gptcli.train.initial_checkpoint import InitialCheckpoint
from gptcli.train.planning.plan import Plan

NATS = "nats.bin"
"""fp32 numbers, one for each token of a split: its nats where it is a target, else 0."""


def with_reference(plan: Plan, strategy: Strategy) -> Plan:
    """Return the plan with the reference's nats in its data; the same plan if the objective compares with nothing.

    All ranks call this before the first step, while the strategy has the initial weights.

    Raises:
        CheckpointError: the reference gives a target a loss that is not finite.
    """
    start = plan.start
    if start is None or not strategy.objective.compares:
        return plan
    world = strategy.world
    world.work = "the reference"
    weights = world.first(lambda: tensors_sha256(start.weights))
    model = plan.config.model.model_dump(mode="json", exclude=set(WITHOUT_EFFECT))

    def compared(shards: TokenShards) -> TokenShards:
        key = cache_key("reference", shards.fingerprint, weights, model, plan.precision, plan.config.seq_len)
        entry = plan.cache_dir / "references" / key
        if not world.first(lambda: is_whole(entry)):
            nats = reference_nats(plan, strategy, shards, start)
            world.first(lambda: keep(entry, nats))
        require_whole(entry)
        return shards.with_reference(np.memmap(entry / NATS, np.dtype("<f4"), mode="r"))

    corpora = [replace(one, train=compared(one.train), val=compared(one.val)) for one in plan.data.corpora]
    data = replace(plan.data, corpora=tuple(corpora))
    batches = Batches(data.train, plan.config.seq_len, plan.config.seed, plan.config.data.pack)
    return replace(plan, data=data, batches=batches)


def reference_nats(plan: Plan, strategy: Strategy, shards: TokenShards, start: InitialCheckpoint) -> np.ndarray:
    """Return the nats of each target of a split, (tokens,) fp32, under the strategy's model; the ranks share the work.

    Raises:
        CheckpointError: one is not finite.
    """
    config, layout = plan.config, strategy.layout
    scorer = ShardScorer(
        strategy, config.seq_len, config.train.batch_size, plan.device, plan.precision, config.data.pack
    )
    windows, own = ExampleWindows(shards, config.seq_len, None), np.zeros(len(shards))
    rounds = -(-len(windows) // (config.train.batch_size * layout.data_ranks))
    with evaluation_mode(strategy.model), Progress("reference", rounds, unit="batches") as progress:
        for number, batch in enumerate(scorer.batches(windows)):
            with autocast(plan.device, plan.precision):
                nats = strategy.model.token_losses(*batch.to(plan.device).model_inputs)
            first = (number * layout.data_ranks + layout.data_rank) * config.train.batch_size
            rows = windows.numbers[first : first + config.train.batch_size]
            windows.sequences.put_back(rows, nats.double().cpu().numpy(), own)
            progress.update(1)
    total = strategy.world.sum_tensor(torch.from_numpy(own)).numpy() / layout.tensor
    if not np.isfinite(total).all():
        raise CheckpointError(
            f"{start.source} gives an answer a loss that is not finite, so nothing can be compared with it",
            "start from another model, or with --set train.precision=fp32",
        )
    return total.astype("<f4")


def keep(entry: Path, nats: np.ndarray) -> None:
    """Write the nats into the cache, unless another process has done it."""
    with only_writer(entry):
        if not is_whole(entry):
            with new_entry(entry) as folder:
                write_file(folder / NATS, nats.tobytes())
