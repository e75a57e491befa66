"""The figures of `gptcli plan`, from its arguments."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from gptcli.config import RawConfig, check_keys, merge, validate
from gptcli.config.load import with_origin
from gptcli.config.shipped import read_settings
from gptcli.errors import UsageError
from gptcli.models import estimate
from gptcli.models.config import ModelConfig
from gptcli.models.memory import BatchShape, Recompute
from gptcli.parallel.config import ParallelConfig
from gptcli.parallel.layout import Layout, lay_out, require_divisible, require_fitting
from gptcli.report.planning.failures import Saving, plan_saving
from gptcli.report.planning.hardware import Accelerator, Machine, parse_accelerator
from gptcli.report.planning.traffic import Transfer, transfers
from gptcli.tokenizer.config import BpeTokenizerConfig
from gptcli.train.config import RunConfig, TrainerConfig
from gptcli.train.planning.memory_estimate import RankMemory, checkpoint_bytes, compute_format, micro_batch, rank_memory

USABLE = 0.94
"""Part of a device's memory for tensors; CUDA's context, libraries and gaps between tensors need the rest."""
TOKENS_PER_PARAMETER = 20
"""About the best number for a given amount of compute (Hoffmann et al. 2022, arXiv:2203.15556)."""
STEP_TOKENS = 2**19
"""Tokens of a step that are not set by the config or --tokens-per-step: GPT-3's smallest batch, rounded up."""
MICRO_BATCH_TOKENS = 16_384
"""Most tokens of a micro-batch whose size the config does not set."""
VOCABULARY = 32_768
"""The vocabulary if neither the model nor its tokenizer has one."""
BYTES_PER_TOKEN = 4
"""Bytes of a token of English text in a large vocabulary, about."""
SMALL_VOCABULARY = 2**16
"""Ids below it need two bytes in a shard, others four."""


@dataclass(frozen=True)
class PlanRequest:
    """The user's request; values that are None come from the config or are chosen."""

    config_files: tuple[str, ...]
    assignments: tuple[str, ...] = ()
    gpus: int = 1
    gpu: str = "h100"
    per_host: int = 8
    strategy: Literal["ddp", "fsdp", "hsdp"] | None = None
    """hsdp is fsdp with `replicas`, by default one on each host."""
    tensor: int | None = None
    replicas: int | None = None
    checkpointing: Recompute | None = None
    tokens: float | None = None
    tokens_per_step: int | None = None
    batch_size: int | None = None
    seq_len: int | None = None
    mfu: float = 0.4
    price_per_hour: float | None = None
    write_rate: float = 1e9
    """Bytes a second that one host writes to the storage of checkpoints."""
    device_hours: float = 50_000.0
    """Mean hours between two failures of one device."""


@dataclass(frozen=True)
class TrainingPlan:
    """All estimates of a training. `report.planning.text` formats them."""

    request: PlanRequest
    config: RunConfig
    machine: Machine
    precision: str
    layout: Layout
    chosen: tuple[str, ...]
    """The assumptions, in words."""
    batch: BatchShape
    """The micro-batch of one rank."""
    micro_batches: int
    """Micro-batches of one rank in a step."""
    memory: RankMemory
    transfers: tuple[Transfer, ...]
    saving: Saving
    tokens: float

    @property
    def model(self) -> ModelConfig:
        """The configuration of the model."""
        return self.config.model

    @property
    def device(self) -> Accelerator:
        """The device to train on."""
        return self.machine.device

    @property
    def steps(self) -> int:
        """The number of steps."""
        return math.ceil(self.tokens / self.config.train.tokens_per_step)

    @property
    def flops_per_token(self) -> int:
        """The operations per token, forward and backward."""
        return estimate.adapted_flops_per_token(self.model, self.config.seq_len, self.adapter_weights)

    @property
    def product_flops_per_token(self) -> float:
        """The operations of them in products that the causal mask and windows leave."""
        model, seq_len, weights = self.model, self.config.seq_len, self.adapter_weights
        return estimate.training_product_flops(model, seq_len, only_seen=True, adapter_weights=weights)

    @property
    def adapter_weights(self) -> int:
        """The weights of the adapter that is trained alone; 0 without one."""
        return estimate.adapter_shape(self.model, self.config.adapter).weights

    @property
    def step_seconds(self) -> float:
        """Seconds of computing in a step; the stated utilisation includes the communication."""
        rate = self.request.gpus * self.device.peak_flops(self.precision) * self.request.mfu
        return self.flops_per_token * self.config.train.tokens_per_step / rate

    @property
    def train_seconds(self) -> float:
        """Seconds of the training without failures."""
        return self.step_seconds * self.tokens / self.config.train.tokens_per_step

    @property
    def wall_seconds(self) -> float:
        """Seconds of the training with failures and checkpoints."""
        return self.train_seconds / max(1e-9, 1 - self.saving.lost)

    @property
    def cost(self) -> float | None:
        """The cost of all device hours, or None without a price."""
        price = self.request.price_per_hour
        return None if price is None else self.wall_seconds / 3600 * self.request.gpus * price

    @property
    def usable_memory(self) -> float:
        """The bytes of a device that a training can use."""
        return USABLE * self.device.memory

    @property
    def fits(self) -> bool:
        """Whether the memory of a rank suffices."""
        return self.memory.total <= self.usable_memory

    @property
    def shard_bytes(self) -> float:
        """Bytes of the training text as token ids on disk."""
        return self.tokens * (2 if self.model.vocab_size <= SMALL_VOCABULARY else 4)


def make_plan(request: PlanRequest) -> TrainingPlan:
    """Return all estimates.

    Raises:
        ConfigError: a config or an assignment is wrong.
        UsageError: a device is unknown, or the devices or the batch cannot be divided like this.
    """
    if not request.config_files:
        raise UsageError("nothing to plan", "name a config: gptcli plan gpt2-124m")
    machine = Machine(parse_accelerator(request.gpu), request.per_host)
    user = read_settings(request.config_files, request.assignments)
    check_keys(RunConfig, user)
    given = merge(user, with_origin(asked_for(request), "the command line"))
    layout = lay_out(validate(ParallelConfig, RawConfig(given.values.get("parallel", {}))), 0, request.gpus)
    config, chosen = complete(given, layout)
    precision = resolved_precision(config, machine.device)
    require_fitting(layout, config.model, precision)
    require_divisible(layout, config.sequences_per_step, config.seq_len, "--tokens-per-step ")
    batch, micro_batches = micro_batch(config, layout)
    device_type = "cpu" if machine.device.is_cpu else "cuda"
    # All hosts write their parts of a sharded model; the first rank alone writes a whole one.
    writers = machine.hosts(request.gpus) if layout.is_sharded else 1
    written = checkpoint_bytes(config)
    tokens, why = training_tokens(request, config)
    return TrainingPlan(
        request=request,
        config=config,
        machine=machine,
        precision=precision,
        layout=layout,
        chosen=(*chosen, *why),
        batch=batch,
        micro_batches=micro_batches,
        memory=rank_memory(config, precision, device_type, layout),
        transfers=tuple(transfers(config, compute_format(precision, device_type), layout, machine)),
        saving=plan_saving(written, request.write_rate * writers, request.device_hours, request.gpus),
        tokens=tokens,
    )


def asked_for(request: PlanRequest) -> dict[str, dict[str, Any]]:
    """Return the options in the form of a config."""
    train = {name: getattr(request, name) for name in ("batch_size", "seq_len", "tokens_per_step")}
    train["activation_checkpointing"] = request.checkpointing
    parallel: dict[str, Any] = {"strategy": request.strategy, "tensor": request.tensor, "replicas": request.replicas}
    if request.strategy == "hsdp":
        hosts = -(-request.gpus // request.per_host)
        parallel |= {"strategy": "fsdp", "replicas": request.replicas or hosts}
    elif request.strategy is not None and request.replicas is None:
        parallel["replicas"] = 1
    sections = {"train": train, "parallel": parallel}
    return {
        name: {key: value for key, value in section.items() if value is not None} for name, section in sections.items()
    }


def complete(given: RawConfig, layout: Layout) -> tuple[RunConfig, list[str]]:
    """Return the configuration with values for the missing keys, and those values in words."""
    chosen: list[str] = []
    train, model = given.values.get("train", {}), given.values.get("model", {})
    under: dict[str, dict[str, Any]] = {"train": {}}
    over: dict[str, dict[str, Any]] = {}
    seq_len = train.get("seq_len") or model.get("context_length", ModelConfig().context_length)
    if "batch_size" not in train:
        under["train"]["batch_size"] = max(1, min(TrainerConfig().batch_size, MICRO_BATCH_TOKENS // seq_len))
    if "tokens_per_step" not in train:
        at_once = train.get("batch_size", under["train"].get("batch_size")) * seq_len * layout.data_ranks
        under["train"]["tokens_per_step"] = -(-STEP_TOKENS // at_once) * at_once
        chosen.append(f"steps of {under['train']['tokens_per_step']:,} tokens (--tokens-per-step)")
    if not model.get("vocab_size"):
        tokenizer = validate(RunConfig, RawConfig({"data": given.values.get("data", {})})).data.tokenizer
        if isinstance(tokenizer, BpeTokenizerConfig) and "tokenizer" in given.values.get("data", {}):
            over["model"] = {"vocab_size": tokenizer.vocab_size}
        else:
            over["model"] = {"vocab_size": VOCABULARY}
            chosen.append(f"a vocabulary of {VOCABULARY:,} (--set model.vocab_size=...)")
    filled = merge(with_origin(under, "gptcli plan"), given, with_origin(over, "gptcli plan"))
    return validate(RunConfig, filled), chosen


def resolved_precision(config: RunConfig, device: Accelerator) -> str:
    """Return the precision with `auto` resolved as in training: bf16 on a GPU, and fp32 on a CPU."""
    if config.train.precision != "auto":
        return config.train.precision
    return "fp32" if device.is_cpu else "bf16"


def training_tokens(request: PlanRequest, config: RunConfig) -> tuple[float, list[str]]:
    """Return the tokens of the training: those of the request, of the config's steps, or Chinchilla's number."""
    if request.tokens is not None:
        return request.tokens, []
    if config.train.max_steps is not None:
        return float(config.train.max_steps * config.train.tokens_per_step), []
    tokens = float(TOKENS_PER_PARAMETER * estimate.parameter_count(config.model))
    return tokens, [f"{TOKENS_PER_PARAMETER} tokens a parameter (--tokens)"]


def what_fits(plan: TrainingPlan) -> TrainingPlan | None:
    """Return the plan with the least intrusive change whose memory fits, or None."""
    for change in changes(plan):
        try:
            other = make_plan(replace(plan.request, **change))
        except UsageError:
            continue
        if other.fits:
            return other
    return None


def changes(plan: TrainingPlan) -> list[dict[str, Any]]:
    """Return the changes that reduce the memory, the least intrusive first, more devices last."""
    request = plan.request
    less: list[dict[str, Any]] = [{"checkpointing": "selective"}, {"checkpointing": "full"}, {"batch_size": 1}]
    less += [{**less[0], **less[2]}, {**less[1], **less[2]}]
    found = list(less)
    for gpus in (request.gpus * 2**doubling for doubling in range(17)):
        for tensor in dict.fromkeys((plan.layout.tensor, min(request.per_host, gpus))):
            spread = {"gpus": gpus, "tensor": tensor, "strategy": "fsdp", "replicas": None}
            found += [spread, *({**spread, **change} for change in less)]
    return found
