"""What one rank sends in a step, and how long that takes by itself.

Ring algorithms (Thakur et al. 2005; NCCL's): among n ranks an all-reduce of S bytes sends 2 (n-1)/n S from each, an
all-gather or a reduce-scatter (n-1)/n S. Each receives as much at the same time.
"""

from __future__ import annotations

from typing import NamedTuple

from gptcli.models.config import ModelConfig
from gptcli.models.estimate import BYTES_FP32, block_parameters, parameter_count
from gptcli.models.memory import Batch, Numbers, Recompute
from gptcli.report.planning.hardware import Accelerator
from gptcli.report.planning.memory import around_parameters
from gptcli.report.planning.ranks import Ranks, part_of_model

REDUCTIONS_PER_BLOCK = 2
"""Of activations under tensor parallelism in a forward pass: after attention, after the MLP; as many backwards."""


class Talk(NamedTuple):
    """One kind of message: what it is for, bytes sent by a rank in a step, and seconds where nothing else is sent."""

    what: str
    bytes: float
    place: str
    seconds: float


def all_reduce(size: float, ranks: int) -> float:
    """Bytes that a rank sends."""
    return 2 * (ranks - 1) / ranks * size


def all_gather(size: float, ranks: int) -> float:
    """Bytes that a rank sends, of `size` that every rank then has; a reduce-scatter sends as many."""
    return (ranks - 1) / ranks * size


def talks(
    model: ModelConfig,
    batch: Batch,
    numbers: Numbers,
    ranks: Ranks,
    device: Accelerator,
    recompute: Recompute,
    micro_batches: int,
) -> list[Talk]:
    """All that is sent in one step of `micro_batches`; nothing among one rank.

    The blocks' weights are gathered in the compute precision for the forward and again for the backward pass of each
    micro-batch, what is around them once in fp32; gradients are summed in fp32 once a step.
    """
    local = part_of_model(model, ranks.tensor)
    found = []

    def add(what: str, size: float, count: int, stride: int) -> None:
        """Of groups of `count` ranks that lie `stride` apart."""
        inside = ranks.is_inside_host(count * stride)
        # Rings over several hosts take the network ports of all their ranks in a host.
        through = device.link if inside else min(device.link, device.network * max(1, ranks.per_host // stride))
        found.append(Talk(what, size, "in the host" if inside else "between hosts", size / through))

    if ranks.tensor > 1:
        passes = 2 if recompute == "none" else 3
        stream = batch.tokens * model.n_embd * numbers.compute_bytes
        count = micro_batches * model.n_layer * REDUCTIONS_PER_BLOCK * passes
        add("tensor: activations summed", count * all_reduce(stream, ranks.tensor), ranks.tensor, 1)
    weights = parameter_count(local) * BYTES_FP32
    if ranks.shards > 1:
        blocks = local.n_layer * block_parameters(local) * numbers.compute_bytes
        gathered = 2 * blocks + around_parameters(local) * BYTES_FP32
        add("shards: weights gathered", micro_batches * all_gather(gathered, ranks.shards), ranks.shards, ranks.tensor)
        add("shards: gradients scattered", all_gather(weights, ranks.shards), ranks.shards, ranks.tensor)
    if ranks.replicas > 1:
        summed = all_reduce(weights / ranks.shards, ranks.replicas)
        add("replicas: gradients summed", summed, ranks.replicas, ranks.tensor * ranks.shards)
    return found
