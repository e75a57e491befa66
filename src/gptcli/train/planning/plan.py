"""From what the user wrote to everything that will happen: data, resolved configuration, device, estimates."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gptcli.config import RawConfig, merge, validate
from gptcli.config.load import with_origin, without_leaf
from gptcli.console import quantity
from gptcli.data.batches import Batches
from gptcli.data.mix import MixScan, PreparedMix, prepare_mix
from gptcli.data.workspace import Workspace
from gptcli.errors import ConfigError, UsageError
from gptcli.models.config import ModelConfig
from gptcli.models.estimate import parameter_count
from gptcli.models.gpt import GPT, build_model
from gptcli.nn.device import machine_memory_bytes, resident_memory_bytes, resolve_device, resolve_precision, synchronize
from gptcli.parallel.strategy import Alone
from gptcli.train.clock import Clock
from gptcli.train.compiling import choose_compile
from gptcli.train.config import RunConfig
from gptcli.train.initial_checkpoint import InitialCheckpoint, settings_from
from gptcli.train.planning.choice import TIME_RULE, Choice, TimedRequest, choose_for_time
from gptcli.train.planning.memory_check import require_memory
from gptcli.train.planning.memory_estimate import rank_memory
from gptcli.train.planning.probe import ProbeSetup, step_seconds
from gptcli.train.planning.small_text import packed_bits
from gptcli.train.planning.subset import scan_subset
from gptcli.train.planning.time_rule import LEAST_STEPS, TRAINING_PART, too_short
from gptcli.train.planning.zero_config import ZERO_CONFIG, CorpusFacts, Shape, choose_shape, longest_run, zero_config
from gptcli.train.resume import NEW, History, settings_fingerprint
from gptcli.train.step import accumulate_gradients, micro_batches
from gptcli.train.time_budget import FORWARD_PART, RunLength, TimeBudget

EPOCHS = "train.epochs"
PROBE_SECONDS = 2.0
FINAL_PART = 0.05
"""Part of the time budget for the last evaluation; it measures the whole validation split if that takes no more."""


@dataclass(frozen=True)
class Deadline:
    """A run's time budget, and what it is expected to buy."""

    clock: Clock | None
    """None on ranks that follow the first one, which reads it."""
    step_seconds: float
    steps: int
    final_tokens: int
    """Validation tokens that the last evaluation has time for."""


@dataclass(frozen=True)
class Plan:
    """What a run will do, before it does it."""

    config: RunConfig
    chosen: tuple[str, ...]
    """The keys that a rule decided."""
    scan: MixScan | None
    """None on ranks that the first one told its plan."""
    data: PreparedMix
    batches: Batches
    device: torch.device
    precision: str
    parameters: int
    memory_bytes: int
    """Estimated memory of training: weights, gradients, optimizer state, activations."""
    cache_dir: Path
    """The directory of the cache, which compiled code is kept in too."""
    process_bytes: int = 0
    """The memory of the process on a CPU before the model is built: Python, PyTorch, and what preparing has left."""
    deadline: Deadline | None = None
    choice: Choice | None = None
    """Why the rule for a deadline chose what it chose."""
    compile_reason: str = ""
    """Why the loss is compiled or not, if that was left open."""
    start: InitialCheckpoint | None = None
    """The model that training starts from, if not from drawn weights."""
    first_step: int = 0
    """Steps that were made before, of a run that is resumed."""
    is_extended: bool = False
    """Whether the run is resumed with a time budget that its steps so far were not planned for."""

    @property
    def config_fingerprint(self) -> str:
        """Hex SHA-256 of the resolved configuration, but for what a resume may change."""
        return settings_fingerprint(self.config.model_dump(mode="json"))

    @property
    def clock(self) -> Clock | None:
        return self.deadline and self.deadline.clock

    @property
    def steps(self) -> int:
        """How many steps the run makes, or is expected to make in its time."""
        return self.deadline.steps if self.deadline else self.config.train.max_steps

    @property
    def epochs(self) -> float:
        """How often the run sees its training split."""
        return self.steps * self.config.sequences_per_step / self.batches.sequences_per_epoch

    @property
    def final_tokens(self) -> int:
        """Validation tokens of the last evaluation: all of them, if there is time."""
        return min(len(self.data.val), self.deadline.final_tokens) if self.deadline else len(self.data.val)

    def new_model(self) -> GPT:
        """The model before its first step."""
        if self.start:
            return self.start.build(self.config.model, self.device).recompute(
                self.config.train.activation_checkpointing
            )
        model = build_model(self.config.model, seed=self.config.seed, device=self.device)
        return model.recompute(self.config.train.activation_checkpointing)

    def new_run_length(self) -> RunLength:
        """Return where the run ends, as planned before its first step."""
        train = self.config.train
        if self.deadline is None:
            return RunLength(train.breakpoints or ((0, self.steps),), last_step=train.max_steps)
        if self.deadline.clock is None:
            return RunLength(((0, self.steps),))
        evaluated = min(train.eval_tokens, len(self.data.val))
        return TimeBudget(
            ((0, self.steps),),
            self.deadline.clock,
            most_steps=train.max_steps,
            intervals={
                "evaluate": train.eval_every_steps,
                "save": train.checkpoint_every_steps,
                "sample": train.sample_every_steps,
            },
            # Then follow the last evaluation on the way, the one for the summary, a checkpoint, and the export.
            closing={"evaluate": 1 + self.final_tokens / evaluated, "save": 1, "write": 2},
            tokens=(evaluated, train.tokens_per_step),
        )


def is_timed(user: RawConfig) -> bool:
    """Whether a time budget ends the run."""
    return "max_seconds" in user.values.get("train", {})


def make_plan(
    user: RawConfig,
    cache_dir: Path,
    began: float,
    *,
    history: History = NEW,
    start: InitialCheckpoint | None = None,
    force: bool = False,
) -> Plan:
    """Read the corpus, resolve every key, prepare tokens; nothing is written but the cache.

    Args:
        user: settings whose keys were checked.
        began: when the time budget began to run, as `time.monotonic()` counts, if there is one.
        history: of the run that is resumed, if one is; then the settings are complete, and nothing is left to a rule.
        start: the model that `train.init_from` names, if it names one.
        force: whether steps of a model that does not fit into the memory are measured all the same.

    Raises:
        OutOfMemoryError: the seconds of a step cannot be measured, since the model does not fit into the memory.
        ConfigError: a key or value is wrong (found before the corpus is read wherever that is possible).
        UsageError: the time budget is too small to train anything.
        DataError: the corpus cannot be read or is too small.
    """
    user = settings_from(start, user) if start else user
    is_new = not history.is_resumed and start is None
    provisional = RawConfig() if history.is_resumed else zero_config(CorpusFacts(1_000_000, "cpu"), user)
    draft = validate(RunConfig, merge(provisional, user))
    require_source(draft, chooses_for_time=is_timed(user) and is_new)
    device = resolve_device(draft.device)
    precision = resolve_precision(device, draft.train.precision)
    process_bytes = resident_memory_bytes(device)
    clock, choice = Clock(draft.train.max_seconds, began) if is_timed(user) else None, None
    if clock is None or not is_new:  # the rule for a deadline chooses a shape
        scan = scan_subset(Workspace(draft.data, cache_dir, draft.seed), draft.train.corpus_bytes)
        chosen = RawConfig() if history.is_resumed else zero_config(CorpusFacts(scan.train.bytes, device.type), user)
    else:
        setting = TimedRequest(user, draft, clock, device, precision, machine_memory_bytes(device), cache_dir)
        scan, chosen, choice = choose_for_time(setting)
    config = validate(RunConfig, merge(chosen, user))
    tokenizer = history.tokenizer or (start.tokenizer if start else None)
    data = prepare_mix(scan, Workspace(config.data, cache_dir, config.seed), tokenizer)
    vocabulary = with_origin({"model": {"vocab_size": padded_vocabulary(config, data)}}, "the tokenizer")
    batches = Batches(data.train, config.seq_len, config.seed, config.data.pack)
    user = with_steps_of_epochs(user, config, batches.sequences_per_epoch, history.step)
    if choice is None and not history.is_resumed:
        chosen = choose_exactly(chosen, exact_facts(scan.train.bytes, device.type, data), user)
    resolved = merge(chosen, user)
    config = validate(RunConfig, merge(resolved, vocabulary))
    memory_bytes = rank_memory(config, precision, device.type).total
    if clock and choice is None and not force:
        require_memory(config, memory_bytes, device)
    return Plan(
        config=config,
        chosen=tuple(key for key, origin in resolved.origins.items() if origin in (ZERO_CONFIG, TIME_RULE)),
        scan=scan,
        data=data,
        batches=batches,
        device=device,
        precision=precision,
        parameters=parameter_count(config.model),
        memory_bytes=memory_bytes,
        cache_dir=cache_dir,
        # Trial steps for a deadline leave memory behind that the training takes again.
        process_bytes=process_bytes if choice else resident_memory_bytes(device),
        deadline=clock and deadline_of(clock, config, choice, device, made=history.step, is_new=is_new),
        choice=choice,
        start=start,
        first_step=history.step,
        is_extended=history.is_extended(config),
    )


def require_source(draft: RunConfig, *, chooses_for_time: bool) -> None:
    """Raises UsageError: there is no corpus, or there is a mix where a part or a shape would be chosen for it."""
    if not draft.data.corpus and not draft.data.mix:
        raise UsageError("no corpus to train on", "name one: gptcli train book.txt")
    if draft.data.mix and (draft.train.corpus_bytes is not None or chooses_for_time):
        raise UsageError(
            "there is no rule for a mix of corpora (data.mix) within a time or a number of bytes",
            "say train.max_steps instead",
        )


def exact_facts(train_bytes: int, device_type: str, data: PreparedMix) -> CorpusFacts:
    """The facts that the zero-config rule uses, now that the text is tokenized; its repetition is measured only where
    the text is small and of one corpus."""
    facts = CorpusFacts(train_bytes, device_type, train_bytes / max(1, len(data.train)))
    first, *others = data.train.parts
    if not facts.is_small or others:
        return facts
    return facts._replace(packed_bits=packed_bits(data.tokenizer.decode(first.read(0, len(first)))))


def with_steps_of_epochs(user: RawConfig, config: RunConfig, sequences_per_epoch: int, made: int) -> RawConfig:
    """The user's settings with `train.max_steps` instead of `train.epochs`, which stands for it.

    Raises:
        ConfigError: a run that is resumed has `made` more steps than that already.
    """
    epochs = config.train.epochs
    if epochs is None:
        return user
    steps = max(1, math.ceil(epochs * sequences_per_epoch / config.sequences_per_step))
    if steps < made:
        raise ConfigError(
            f"the run has made {made:,} steps, more than the {steps:,} of train.epochs = {epochs:g}", "choose more"
        )
    return merge(without_leaf(user, EPOCHS), with_origin({"train": {"max_steps": steps}}, EPOCHS))


def choose_exactly(chosen: RawConfig, facts: CorpusFacts, user: RawConfig) -> RawConfig:
    """The choices of the zero-config rule once the text is tokenized, and the most steps of a run that a clock ends.

    Only small texts, and runs whose epochs are set, are counted by their tokens.
    """
    if facts.is_small or user.origins.get("train.max_steps") == EPOCHS:
        chosen = zero_config(facts, user)
    train, shape = chosen.values["train"], choose_shape(facts, user.values)
    if is_timed(user) and "max_steps" in train and isinstance(shape, Shape):
        step_tokens = merge(chosen, user).values["train"]["tokens_per_step"]
        train["max_steps"] = longest_run(shape, facts.train_bytes, step_tokens, user.values.get("model", {}))
    return chosen


def deadline_of(
    clock: Clock, config: RunConfig, choice: Choice | None, device: torch.device, *, made: int, is_new: bool
) -> Deadline:
    """The deadline with the `made` steps and those that fit into the rest of the time, by the seconds of a step as the
    rule measured them, or as measured now.

    Args:
        is_new: neither a run that is resumed nor one that starts from a model, which may be left with any time.

    Raises:
        UsageError: hardly any step fits.
    """
    train, left = config.train, clock.remaining()
    if choice is not None:
        seconds = choice.ranked[0].step_seconds
        left -= choice.ranked[0].compiling_seconds
    else:
        machine = ProbeSetup(device, resolve_precision(device, train.precision), config.optim, train.grad_clip)
        seconds = step_seconds(machine, config.model, train.tokens_per_step, config.seq_len, train.batch_size, 0.5)
    steps = int(TRAINING_PART * left / seconds)
    if is_new and steps < LEAST_STEPS // 2:
        raise too_short(LEAST_STEPS * seconds / TRAINING_PART - left)
    final_tokens = FINAL_PART * clock.seconds / (FORWARD_PART * seconds / train.tokens_per_step)
    steps = made + max(1, steps)
    return Deadline(clock, seconds, min(steps, train.max_steps or steps), int(final_tokens))


def settle_compile(plan: Plan, step_seconds: float | None) -> Plan:
    """The plan with train.compile true or false, as its run.toml will keep it, and with the reason if it was auto.

    Raises:
        UsageError: true was set, and what torch compiles with is missing.
    """
    seconds = None if step_seconds is None else step_seconds * plan.steps
    train = plan.config.train
    wanted, reason = choose_compile(train.compile, plan.device, plan.config.model, seconds)
    config = plan.config.model_copy(update={"train": train.model_copy(update={"compile": wanted})})
    return replace(plan, config=config, compile_reason=reason)


def padded_vocabulary(config: RunConfig, data: PreparedMix) -> int:
    """The model's vocabulary: the tokenizer's, or a larger one that the user asked for (GPT-2's 50304, say)."""
    wanted, needed = config.model.vocab_size, data.tokenizer.vocab_size
    if wanted and wanted < needed:
        raise ConfigError(
            f"model.vocab_size {wanted} is smaller than the tokenizer's {needed}",
            "leave it out, or give --set model.vocab_size=0",
        )
    return wanted or needed


def probe_step_seconds(plan: Plan, model: GPT) -> float:
    """Seconds of one optimizer step, from the fastest of a few timed micro-batches: the first ones are slower, and the
    very first, which waits for libraries, is never alone.

    Leaves no gradient behind. The optimizer's own time is left out, so the estimate is slightly low for small batches.
    """
    config = plan.config
    micro_batch = next(micro_batches(plan.batches, 0, config.sequences_per_step, config.train.batch_size))
    no_scaler = torch.amp.GradScaler(plan.device.type, enabled=False)
    seconds: list[float] = []
    while len(seconds) < 2 or (len(seconds) < 8 and sum(seconds) < PROBE_SECONDS):
        synchronize(plan.device)
        began = time.perf_counter()
        accumulate_gradients(Alone(model), [micro_batch], plan.device, plan.precision, no_scaler)
        synchronize(plan.device)
        seconds.append(time.perf_counter() - began)
    model.zero_grad(set_to_none=True)
    return min(seconds) * config.sequences_per_step / len(micro_batch.input_ids)


def describe_model(config: ModelConfig) -> str:
    """The architecture in a few words: `4 layers, 128 wide, 4 heads of 32, rope, rmsnorm, swiglu, context 128`."""
    heads = f"{quantity(config.n_head, 'head')} of {config.head_width}"
    if config.kv_heads != config.n_head:
        heads += f" ({config.kv_heads} for keys and values)"
    parts: list[Any] = [quantity(config.n_layer, "layer"), f"{config.n_embd} wide", heads, config.norm, config.mlp]
    if config.position != "none":
        scaled = f" ({config.rope_scaling.name} x{config.rope_scaling.factor:g})" if config.rope_scaling else ""
        parts.append({"rope": f"rope{scaled}", "learned": "learned positions"}[config.position])
    return ", ".join([*parts, f"context {config.context_length}"])
