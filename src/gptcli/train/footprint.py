"""What a configuration takes of one device's memory and of the disk. Plain arithmetic, no torch."""

from __future__ import annotations

from gptcli.models.config import ModelConfig
from gptcli.models.estimate import BYTES_FP32, block_matrices, parameter_count
from gptcli.models.memory import Batch, Numbers, Recompute, training_memory_bytes
from gptcli.optim.config import AdamWConfig, MuonConfig, OptimConfig, SgdConfig
from gptcli.train.config import RunConfig


def optimizer_numbers(model: ModelConfig, optim: OptimConfig) -> int:
    """fp32 numbers that the optimizer keeps: AdamW two for each weight, Muon one for each of a hidden matrix."""
    match optim:
        case SgdConfig():
            return parameter_count(model) if optim.momentum else 0
        case AdamWConfig():
            return 2 * parameter_count(model)
        case MuonConfig():
            return 2 * parameter_count(model) - model.n_layer * block_matrices(model)


def memory_of_training(config: RunConfig, precision: str, device_type: str) -> int:
    """Bytes that training takes on one device, by models.memory. `precision` is the resolved one."""
    return training_memory_bytes(
        config.model,
        optimizer_numbers(config.model, config.optim),
        Batch(min(config.train.batch_size, config.sequences_per_step), config.seq_len),
        numbers_of(precision, device_type),
        recompute_of(config),
        accumulates=config.sequences_per_step > config.train.batch_size,
    )


def recompute_of(config: RunConfig) -> Recompute:
    """What the blocks compute again in the backward pass."""
    finer: Recompute = getattr(config.train, "activation_checkpointing", "none")
    return "full" if config.model.activation_checkpointing and finer == "none" else finer


def numbers_of(precision: str, device_type: str) -> Numbers:
    """In what a model computes under `precision`; what is around the products of fp8 is bf16."""
    return Numbers(BYTES_FP32 if precision == "fp32" else BYTES_FP32 // 2, on_cuda=device_type == "cuda")


def checkpoint_bytes(model: ModelConfig, optim: OptimConfig) -> int:
    """Of one checkpoint's tensors: weights and optimizer state in fp32. Headers and JSON add some kilobytes."""
    return (parameter_count(model) + optimizer_numbers(model, optim)) * BYTES_FP32
