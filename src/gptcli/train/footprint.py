"""What a training takes of each rank's memory, by part, and of the disk. Plain arithmetic, no torch.

Adds to `models.memory`, which reckons what one device computes, how `parallel` shares weights out and what it needs to
talk.
"""

from __future__ import annotations

from typing import NamedTuple

from gptcli.models.config import ModelConfig
from gptcli.models.estimate import BYTES_FP32, block_matrices, block_parameters, parameter_count
from gptcli.models.memory import Batch, Numbers, activations, head_copy_bytes, table_bytes
from gptcli.optim.config import AdamWConfig, MuonConfig, OptimConfig, SgdConfig
from gptcli.parallel.layout import Layout
from gptcli.train.config import RunConfig

BLOCKS_IN_FLIGHT = 2
"""Blocks whose weights or gradients are whole at once: one computes while the next is gathered, or the last summed."""
ALONE = Layout()


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


def rank_memory(config: RunConfig, precision: str, device_type: str, layout: Layout = ALONE) -> RankMemory:
    """What one rank holds while it trains, at the moment when that is most. `precision` is the resolved one."""
    batch, count = micro_batch(config, layout)
    numbers = numbers_of(precision, device_type)
    local, offloaded = part_of_model(config.model, layout.tensor), config.parallel.cpu_offload and layout.shards > 1
    whole = parameter_count(local) * BYTES_FP32
    state = 0 if offloaded else whole // layout.shards
    moments = 0 if offloaded else optimizer_numbers(local, config.optim) * BYTES_FP32 // layout.shards
    # Shards hold whole gradients until the last micro-batch of a step, since only then they are summed.
    waiting = whole if layout.shards > 1 and count > 1 else 0
    kept = activations(local, batch, numbers, config.recompute)
    if layout.shards > 1:  # the blocks' weights are gathered in the compute precision: autocast has nothing to copy
        kept = kept._replace(weight_copies=head_copy_bytes(local, numbers))
    talk = communication_bytes(config, local, numbers, layout)
    # Otherwise gradients arrive while activations go; DDP's have their place all the time.
    is_gradient_there = count > 1 or (layout.shards == 1 and layout.replicas > 1)
    moving = kept.peak + state + waiting if is_gradient_there else max(kept.peak, state + kept.recomputed)
    return RankMemory(
        weights=state,
        gradients=state + waiting,
        moments=moments,
        activations=kept.blocks + kept.around,
        recomputed=kept.recomputed,
        weight_copies=kept.weight_copies,
        loss=kept.loss + kept.loss_peak,
        tables=table_bytes(config.model),
        communication=talk,
        total=state + moments + table_bytes(config.model) + talk + moving,
    )


def micro_batch(config: RunConfig, layout: Layout = ALONE) -> tuple[Batch, int]:
    """What goes through a rank at once, and how often in a step."""
    sequences = config.sequences_per_step // layout.data_ranks
    size = max(1, min(config.train.batch_size, sequences))
    return Batch(size, config.seq_len), -(-sequences // size)


def part_of_model(model: ModelConfig, tensor: int) -> ModelConfig:
    """The model as one of `tensor` ranks holds it: every matrix of a block cut along its heads or its MLP's width.

    Embeddings, head and norms are whole on every rank.
    """
    if tensor == 1:
        return model
    widths = {"n_head": model.n_head, "n_kv_head": model.kv_heads, "intermediate_size": model.mlp_width}
    parts = {name: width // tensor for name, width in widths.items()}
    return model.model_copy(update={**parts, "head_dim": model.head_width})


def communication_bytes(config: RunConfig, local: ModelConfig, numbers: Numbers, layout: Layout) -> int:
    """Room for talk: with shards whole weights and gradients of the blocks in flight, and of what is around them.

    Blocks are gathered in the compute precision, what is around them in fp32; gradients are summed in fp32. DDP sums
    them where they lie.
    """
    if layout.shards == 1:
        return 0
    block, around = block_parameters(local), around_parameters(local) * 2 * BYTES_FP32
    gathered = BLOCKS_IN_FLIGHT if config.parallel.reshard_after_forward else local.n_layer
    return block * (gathered * numbers.compute_bytes + BLOCKS_IN_FLIGHT * BYTES_FP32) + around


def around_parameters(local: ModelConfig) -> int:
    """Weights outside the blocks, which are gathered together."""
    return parameter_count(local) - local.n_layer * block_parameters(local)


def optimizer_numbers(model: ModelConfig, optim: OptimConfig) -> int:
    """fp32 numbers that the optimizer keeps: AdamW two for each weight, Muon one for each of a hidden matrix."""
    match optim:
        case SgdConfig():
            return parameter_count(model) if optim.momentum else 0
        case AdamWConfig():
            return 2 * parameter_count(model)
        case MuonConfig():
            return 2 * parameter_count(model) - model.n_layer * block_matrices(model)


def numbers_of(precision: str, device_type: str) -> Numbers:
    """In what a model computes under `precision`; what is around the products of fp8 is bf16."""
    return Numbers(BYTES_FP32 if precision == "fp32" else BYTES_FP32 // 2, on_cuda=device_type == "cuda")


def checkpoint_bytes(model: ModelConfig, optim: OptimConfig) -> int:
    """Of one checkpoint's tensors: weights and optimizer state in fp32. Headers and JSON add some kilobytes."""
    return (parameter_count(model) + optimizer_numbers(model, optim)) * BYTES_FP32
