"""The bytes that one rank sends in a step, and the time that they take without other traffic.

Ring algorithms (Thakur et al. 2005; NCCL's): among n ranks an all-reduce of S bytes sends 2 (n-1)/n S from each, an
all-gather or a reduce-scatter (n-1)/n S. Each receives as much at the same time.
"""

from __future__ import annotations

from typing import NamedTuple

from gptcli.models.estimate import BYTES_FP32, block_parameters, parameter_count
from gptcli.models.memory import ComputeFormat
from gptcli.parallel.layout import Layout
from gptcli.report.planning.hardware import Machine
from gptcli.train.config import RunConfig
from gptcli.train.planning.memory_estimate import around_parameters, micro_batch, part_of_model, trained_parameters

REDUCTIONS_PER_BLOCK = 2
"""Sums of activations in a block's forward pass under tensor parallelism; a backward pass has as many."""


class Transfer(NamedTuple):
    """One kind of communication in a step."""

    what: str
    """Its purpose, in words."""
    bytes: float
    """Bytes that a rank sends."""
    place: str
    seconds: float
    """Seconds that it takes without other traffic."""


def all_reduce(size: float, ranks: int) -> float:
    """Return the bytes that a rank sends."""
    return 2 * (ranks - 1) / ranks * size


def all_gather(size: float, ranks: int) -> float:
    """Return the bytes that a rank sends to give every rank `size` bytes; a reduce-scatter sends as many."""
    return (ranks - 1) / ranks * size


def transfers(config: RunConfig, numbers: ComputeFormat, layout: Layout, machine: Machine) -> list[Transfer]:
    """Return everything that a rank sends in one step.

    The blocks' weights are gathered in the compute precision for the forward pass of each micro-batch, and again for
    its backward pass if they were dropped between; the other weights are gathered once in fp32. Gradients are summed in
    fp32, once a step.
    """
    batch, micro_batches = micro_batch(config, layout)
    local = part_of_model(config.model, layout.tensor)
    found: list[Transfer] = []

    def add(what: str, size: float, count: int, stride: int) -> None:
        """Add a transfer in groups of `count` ranks with a distance of `stride`."""
        place, rate = machine.between(count, stride)
        found.append(Transfer(what, size, place, size / rate))

    if layout.tensor > 1:
        passes = 2 if config.train.activation_checkpointing == "none" else 3
        stream = batch.tokens * local.n_embd * numbers.compute_bytes
        count = micro_batches * local.n_layer * REDUCTIONS_PER_BLOCK * passes
        add("tensor: activations summed", count * all_reduce(stream, layout.tensor), layout.tensor, 1)
    weights = parameter_count(local) * BYTES_FP32
    if layout.shards > 1:
        blocks = local.n_layer * block_parameters(local) * numbers.compute_bytes
        times = 2 if config.parallel.reshard_after_forward else 1
        gathered = micro_batches * (times * blocks + around_parameters(local) * BYTES_FP32)
        add("shards: weights gathered", all_gather(gathered, layout.shards), layout.shards, layout.tensor)
        add("shards: gradients scattered", all_gather(weights, layout.shards), layout.shards, layout.tensor)
    if layout.replicas > 1:
        gradients = trained_parameters(local, config.adapter) * BYTES_FP32
        summed = all_reduce(gradients / layout.shards, layout.replicas)
        add("replicas: gradients summed", summed, layout.replicas, layout.tensor * layout.shards)
    return found
