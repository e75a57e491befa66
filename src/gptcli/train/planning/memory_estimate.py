"""The estimate of a training's memory on each rank, by part, and of its checkpoints on disk. Imports no torch.

`models.memory` estimates what one device computes. This module adds the effects of the strategies of `parallel`: how
the weights are sharded, and which buffers communication needs.
"""

from __future__ import annotations

from typing import NamedTuple

from gptcli.models.adapter_config import AdapterConfig, LoraConfig
from gptcli.models.config import ModelConfig
from gptcli.models.estimate import (
    BYTES_FP32,
    adapter_shape,
    block_matrices,
    block_matrix_shapes,
    block_parameters,
    parameter_count,
    token_embedding_parameters,
)
from gptcli.models.memory import (
    BatchShape,
    ComputeFormat,
    activations,
    head_copy_bytes,
    table_bytes,
    token_loss_bytes,
)
from gptcli.nn.thresholds import MAX_MUON_BATCH
from gptcli.optim.config import AdamWConfig, MuonConfig, OptimConfig, SgdConfig
from gptcli.parallel.layout import Layout
from gptcli.train.config import RunConfig

ALONE = Layout()


class RankMemory(NamedTuple):
    """Bytes on one rank. Weights, gradients and moments are always there; the rest is its peak at one moment."""

    weights: int
    gradients: int
    moments: int
    activations: int
    recomputed: int
    weight_copies: int
    loss: int
    tables: int
    gathered: int
    step: int
    total: int


def rank_memory(config: RunConfig, precision: str, device_type: str, layout: Layout = ALONE) -> RankMemory:
    """Return what one rank holds while it trains, at its peak. `precision` is the resolved one."""
    batch, count = micro_batch(config, layout)
    numbers = compute_format(precision, device_type)
    local, offloaded = part_of_model(config.model, layout.tensor), config.parallel.cpu_offload and layout.shards > 1
    adapter = adapter_shape(local, config.adapter)
    whole = (parameter_count(local) + adapter.weights) * BYTES_FP32
    weights = 0 if offloaded else whole // layout.shards
    moments = 0 if offloaded else optimizer_numbers(local, config.optim, config.adapter) * BYTES_FP32 // layout.shards
    # Shards hold whole gradients until the last micro-batch of a step, since only then are they summed.
    gradients = whole if layout.shards > 1 and count > 1 else weights
    unfused, recompute = numbers._replace(is_unfused=layout.is_sharded), config.train.activation_checkpointing
    kept = activations(local, batch, unfused, recompute, config.adapter)
    if config.objective.name == "dpo":
        kept = kept._replace(loss_peak=kept.loss_peak + token_loss_bytes(local, batch, numbers))
    if adapter.weights:
        gradients = adapter.weights * BYTES_FP32
    if layout.shards > 1:  # the blocks' weights are gathered in the compute precision, so autocast copies none
        kept = kept._replace(weight_copies=head_copy_bytes(local, numbers))
    whole_for_a_moment = gathered_bytes(config, local, numbers, layout)
    in_loss, in_backward, in_sum = whole_for_a_moment
    # Otherwise gradients arrive while activations are freed; DDP's are always allocated.
    is_gradient_there = count > 1 or (layout.shards == 1 and layout.replicas > 1)
    on_the_way = max(kept.in_loss + in_loss, kept.in_backward + in_backward) + gradients * is_gradient_there
    at_the_end = gradients + (in_sum or kept.recomputed)
    tables = table_bytes(config.model, batch.seq_len)
    step = 0 if offloaded or adapter.weights else step_bytes(local, config.optim, layout.shards, numbers)
    return RankMemory(
        weights=weights,
        gradients=gradients,
        moments=moments,
        activations=kept.blocks + kept.around,
        recomputed=kept.recomputed,
        weight_copies=kept.weight_copies,
        loss=kept.loss + kept.loss_peak,
        tables=tables,
        gathered=max(whole_for_a_moment),
        step=step,
        total=weights + moments + tables + max(on_the_way, at_the_end, weights + step),
    )


def micro_batch(config: RunConfig, layout: Layout = ALONE) -> tuple[BatchShape, int]:
    """Return the micro-batch of a rank, and how many a step has."""
    sequences = config.sequences_per_step // layout.data_ranks
    size = max(1, min(config.train.batch_size, sequences))
    return BatchShape(size, config.seq_len), -(-sequences // size)


def part_of_model(model: ModelConfig, tensor: int) -> ModelConfig:
    """Return the model as one of `tensor` ranks holds it: the matrices of a block cut along heads or the MLP's width.

    Embeddings, head and norms are whole on every rank.
    """
    if tensor == 1:
        return model
    widths = {"n_head": model.n_head, "n_kv_head": model.kv_heads, "intermediate_size": model.mlp_width}
    parts = {name: width // tensor for name, width in widths.items()}
    return model.model_copy(update={**parts, "head_dim": model.head_width})


def gathered_bytes(
    config: RunConfig, local: ModelConfig, numbers: ComputeFormat, layout: Layout
) -> tuple[int, int, int]:
    """Return the bytes of a sharded model that are gathered in the loss, early in the backward pass, and at its end.

    Blocks are gathered in the compute precision, the weights around them in fp32; gradients are summed in fp32. In the
    loss the last block and the weights around the blocks are still whole. In the backward pass a block computes while
    the next one is gathered and the gradient of the previous one is summed; the gradient of the head waits from the
    start. At its end the block's own gradient is there too, and activations are not. DDP sums gradients in place.
    """
    if layout.shards == 1:
        return 0, 0, 0
    block, around = block_parameters(local), around_parameters(local) * BYTES_FP32
    kept, moving = (1, 2) if config.parallel.reshard_after_forward else (local.n_layer, local.n_layer)
    gathered, gradient = moving * block * numbers.compute_bytes + around, block * BYTES_FP32
    head = token_embedding_parameters(local) * BYTES_FP32
    in_loss = kept * block * numbers.compute_bytes + around
    return in_loss, gathered + gradient + head, gathered + 2 * gradient + around


def around_parameters(local: ModelConfig) -> int:
    """Return the weights outside the blocks, which are gathered together."""
    return parameter_count(local) - local.n_layer * block_parameters(local)


def trained_parameters(model: ModelConfig, adapter: AdapterConfig) -> int:
    """Return the weights that are trained: those of the adapter, or else all."""
    return adapter_shape(model, adapter).weights or parameter_count(model)


def optimizer_numbers(model: ModelConfig, optim: OptimConfig, adapter: AdapterConfig) -> int:
    """Return the fp32 numbers that the optimizer keeps: AdamW two a weight, Muon one a weight of a hidden matrix.

    The matrices of an adapter are not hidden matrices, unless `adapter.muon` is set.
    """
    trained = trained_parameters(model, adapter)
    match optim:
        case SgdConfig():
            return trained if optim.momentum else 0
        case AdamWConfig():
            return 2 * trained
        case MuonConfig():
            if isinstance(adapter, LoraConfig):
                return trained if adapter.muon else 2 * trained
            return 2 * trained - model.n_layer * block_matrices(model)


def compute_format(precision: str, device_type: str) -> ComputeFormat:
    """Return the format in which a model computes under `precision`; with fp8 all but the products are in bf16."""
    return ComputeFormat(BYTES_FP32 if precision == "fp32" else BYTES_FP32 // 2, on_cuda=device_type == "cuda")


def step_bytes(model: ModelConfig, optim: OptimConfig, shards: int, numbers: ComputeFormat) -> int:
    """Return the bytes that the optimizer needs during its step beyond its state; only Muon needs any.

    They are its updates and, for up to MAX_MUON_BATCH numbers of the matrices of one shape at once, the copy that is
    orthogonalised, the iterate before and after, and their products. A CPU that iterates in bf16 needs less.
    """
    if not isinstance(optim, MuonConfig):
        return 0
    shapes, batches = block_matrix_shapes(model), []
    for rows, columns in set(shapes):
        count = model.n_layer * shapes.count((rows, columns)) * rows * columns // shards
        batch = min(count, max(MAX_MUON_BATCH, rows * columns))
        squares = batch * min(rows, columns) // max(rows, columns)
        per_number = BYTES_FP32 // 2 if numbers.on_cuda else BYTES_FP32
        batches.append(3 * batch * BYTES_FP32 + (4 if rows > columns else 2) * squares * per_number)
    updates = model.n_layer * block_matrices(model) * BYTES_FP32 // shards if optim.nesterov else 0
    return updates + max(batches)


def checkpoint_bytes(config: RunConfig) -> int:
    """Return the bytes of a checkpoint's weights and optimizer state in fp32. Headers and JSON add some kilobytes."""
    model, adapter = config.model, config.adapter
    return (trained_parameters(model, adapter) + optimizer_numbers(model, config.optim, adapter)) * BYTES_FP32
