"""The memory of one rank, by part. Adds to `models.memory` what several ranks share out, and what they need to talk."""

from __future__ import annotations

from typing import NamedTuple

from gptcli.models.config import ModelConfig
from gptcli.models.estimate import BYTES_FP32, block_parameters, parameter_count
from gptcli.models.memory import Batch, Numbers, Recompute, activations, head_copy_bytes, table_bytes
from gptcli.optim.config import OptimConfig
from gptcli.report.planning.ranks import Ranks, part_of_model
from gptcli.train.footprint import optimizer_numbers

USABLE = 0.94
"""Part of a device's memory that tensors can have: CUDA's context, libraries and gaps between tensors take the rest."""
BLOCKS_IN_FLIGHT = 2
"""Blocks whose weights or gradients are whole at once: one computes while the next is gathered, or the last summed."""


class RankMemory(NamedTuple):
    """Bytes on one rank. Weights, gradients and moments are there all the time; of the rest the most at one moment."""

    weights: int
    gradients: int
    moments: int
    activations: int
    recomputed: int
    weight_copies: int
    loss: int
    tables: int
    communication: int
    total: int


def rank_memory(
    model: ModelConfig,
    optim: OptimConfig,
    batch: Batch,
    numbers: Numbers,
    ranks: Ranks,
    recompute: Recompute,
    *,
    accumulates: bool,
) -> RankMemory:
    """What one rank holds of `model` while it trains on micro-batches of `batch`.

    `accumulates`: a step has several of them. Shards then hold whole gradients until the last one, since only then they
    are summed.
    """
    local = part_of_model(model, ranks.tensor)
    whole = parameter_count(local) * BYTES_FP32
    state, moments = whole // ranks.shards, optimizer_numbers(local, optim) * BYTES_FP32 // ranks.shards
    waiting = whole if ranks.shards > 1 and accumulates else 0
    kept = activations(local, batch, numbers, recompute)
    if ranks.shards > 1:  # the blocks' weights are gathered in the compute precision: autocast has nothing to copy
        kept = kept._replace(weight_copies=head_copy_bytes(local, numbers))
    talk = communication_bytes(local, numbers, ranks)
    # In other cases gradients arrive while activations go; DDP's have their place all the time.
    is_gradient_there = accumulates or (ranks.shards == 1 and ranks.replicas > 1)
    moving = kept.peak + state + waiting if is_gradient_there else max(kept.peak, state + kept.recomputed)
    return RankMemory(
        weights=state,
        gradients=state + waiting,
        moments=moments,
        activations=kept.blocks + kept.around,
        recomputed=kept.recomputed,
        weight_copies=kept.weight_copies,
        loss=kept.loss + kept.loss_peak,
        tables=table_bytes(model),
        communication=talk,
        total=state + moments + table_bytes(model) + talk + moving,
    )


def communication_bytes(local: ModelConfig, numbers: Numbers, ranks: Ranks) -> int:
    """Room for talk: with shards whole weights and gradients of the blocks in flight, and of what is around them.

    Blocks are gathered in the compute precision, what is around them in fp32; gradients are summed in fp32. DDP sums
    them where they lie.
    """
    if ranks.shards == 1:
        return 0
    in_flight = BLOCKS_IN_FLIGHT * block_parameters(local) * (numbers.compute_bytes + BYTES_FP32)
    return in_flight + around_parameters(local) * 2 * BYTES_FP32


def around_parameters(local: ModelConfig) -> int:
    """Weights outside the blocks, which are gathered together."""
    return parameter_count(local) - local.n_layer * block_parameters(local)
