"""From what the user wrote to everything that will happen: data, resolved configuration, device, estimates."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gptcli.config import RawConfig, check_keys, merge, validate
from gptcli.config.load import with_origin
from gptcli.data.batches import Batches
from gptcli.data.prepare import CorpusScan, PreparedData, prepare_data, scan_corpus
from gptcli.errors import ConfigError, UsageError
from gptcli.models.config import ModelConfig
from gptcli.models.estimate import parameter_count, training_memory_bytes
from gptcli.models.gpt import GPT
from gptcli.nn.device import resolve_device, resolve_precision, synchronize
from gptcli.train.config import RunConfig
from gptcli.train.step import accumulate_gradients, micro_batches
from gptcli.train.zero_config import ORIGIN, zero_config

PROBE_SECONDS = 2.0
OPTIMIZER_STATE_PER_PARAMETER = {"sgd": 1, "adamw": 2, "muon": 1}


@dataclass(frozen=True)
class Plan:
    """What a run will do, before it does it."""

    config: RunConfig
    chosen: tuple[str, ...]
    """The keys that the zero-config rule decided."""
    scan: CorpusScan
    data: PreparedData
    batches: Batches
    device: torch.device
    precision: str
    parameters: int
    memory_bytes: int
    """Estimated memory of training: weights, gradients, optimizer state, activations."""

    @property
    def config_fingerprint(self) -> str:
        """Hex SHA-256 of the resolved configuration."""
        return hashlib.sha256(self.config.model_dump_json().encode()).hexdigest()

    @property
    def epochs(self) -> float:
        """How often the run sees its training split."""
        return self.config.train.max_steps * self.config.sequences_per_step / self.batches.sequences_per_epoch


def make_plan(user: RawConfig, cache_dir: Path) -> Plan:
    """Read the corpus, resolve every key, prepare tokens; nothing is written but the cache.

    Raises:
        ConfigError: a key or value is wrong (found before the corpus is read wherever that is possible).
        DataError: the corpus cannot be read or is too small.
    """
    check_keys(RunConfig, user)
    provisional = zero_config(1_000_000, 100, "cpu", user)
    draft = validate(RunConfig, merge(provisional, user))
    if not draft.data.corpus:
        raise UsageError("no corpus to train on", "name one: gptcli train book.txt")
    device = resolve_device(draft.device)
    precision = resolve_precision(device, draft.train.precision)
    scan = scan_corpus(draft.data.corpus, draft.data, cache_dir, draft.seed)
    chosen = zero_config(scan.train.bytes, scan.train.distinct_characters, device.type, user)
    resolved = merge(chosen, user)
    config = validate(RunConfig, resolved)
    data = prepare_data(scan, config.data, cache_dir)
    vocabulary = with_origin({"model": {"vocab_size": padded_vocabulary(config, data)}}, "the tokenizer")
    config = validate(RunConfig, merge(resolved, vocabulary))
    return Plan(
        config=config,
        chosen=tuple(key for key, origin in resolved.origins.items() if origin == ORIGIN),
        scan=scan,
        data=data,
        batches=Batches(data.train, config.seq_len, config.seed, config.data.pack),
        device=device,
        precision=precision,
        parameters=parameter_count(config.model),
        memory_bytes=estimate_memory(config, precision),
    )


def padded_vocabulary(config: RunConfig, data: PreparedData) -> int:
    """The model's vocabulary: the tokenizer's, or a larger one that the user asked for (GPT-2's 50304, say)."""
    wanted, needed = config.model.vocab_size, data.tokenizer.vocab_size
    if wanted and wanted < needed:
        raise ConfigError(
            f"model.vocab_size {wanted} is smaller than the tokenizer's {needed}", "leave it out or set it to 0"
        )
    return wanted or needed


def estimate_memory(config: RunConfig, precision: str) -> int:
    """Bytes that training takes on one device, by models.estimate."""
    return training_memory_bytes(
        config.model,
        OPTIMIZER_STATE_PER_PARAMETER[config.optim.name],
        config.train.batch_size,
        config.seq_len,
        activation_bytes=4 if precision == "fp32" else 2,
    )


def machine_memory_bytes(device: torch.device) -> int:
    """Bytes of memory that the device has in all."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def probe_step_seconds(plan: Plan, model: GPT) -> float:
    """Seconds of one optimizer step, from the fastest of a few timed micro-batches: the first ones are slower.

    Leaves no gradient behind. The optimizer's own time is left out, so the estimate is slightly low for small batches.
    """
    config = plan.config
    micro_batch = next(micro_batches(plan.batches, 0, config.sequences_per_step, config.train.batch_size))
    no_scaler = torch.amp.GradScaler(plan.device.type, enabled=False)
    seconds: list[float] = []
    while len(seconds) < 8 and sum(seconds) < PROBE_SECONDS:
        synchronize(plan.device)
        began = time.perf_counter()
        accumulate_gradients(model.loss_sum, [micro_batch], plan.device, plan.precision, no_scaler)
        synchronize(plan.device)
        seconds.append(time.perf_counter() - began)
    model.zero_grad(set_to_none=True)
    return min(seconds) * config.sequences_per_step / len(micro_batch.input_ids)


def describe_model(config: ModelConfig) -> str:
    """The architecture in a few words: `4 layers, 128 wide, 4 heads of 32, rope, rmsnorm, swiglu, context 128`."""
    heads = f"{config.n_head} heads of {config.head_width}"
    if config.kv_heads != config.n_head:
        heads += f" ({config.kv_heads} for keys and values)"
    parts: list[Any] = [f"{config.n_layer} layers", f"{config.n_embd} wide", heads, config.norm, config.mlp]
    if config.position != "none":
        parts.append({"rope": "rope", "learned": "learned positions"}[config.position])
    return ", ".join([*parts, f"context {config.context_length}"])
