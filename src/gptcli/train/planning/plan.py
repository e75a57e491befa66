"""The plan of a run: from the user's settings to the data, the resolved configuration, the device and the estimates."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gptcli.config import RawConfig, merge, validate
from gptcli.config.load import with_origin, without_leaf
from gptcli.data.batches import Batches
from gptcli.data.mix import MixScan, PreparedMix, prepare_mix
from gptcli.data.workspace import ExampleModel, Workspace
from gptcli.errors import ConfigError
from gptcli.models.adapters import add_adapter
from gptcli.models.estimate import parameter_count
from gptcli.models.gpt import GPT, build_model
from gptcli.nn.device import (
    ResolvedPrecision,
    machine_memory_bytes,
    resident_memory_bytes,
    resolve_device,
    resolve_precision,
    seconds_of_call,
)
from gptcli.parallel.strategy import Alone
from gptcli.train.clock import Clock
from gptcli.train.compiling import choose_compile
from gptcli.train.config import RunConfig
from gptcli.train.initial_checkpoint import InitialCheckpoint, settings_from
from gptcli.train.planning.choice import TIME_RULE, Choice, TimedRequest, choose_for_time
from gptcli.train.planning.corpus import DRAFT_FACTS, require_base, require_source
from gptcli.train.planning.fine_tuning import FINE_TUNING, choose_settings, fine_tuning, is_of_examples
from gptcli.train.planning.memory_check import require_memory
from gptcli.train.planning.memory_estimate import rank_memory, trained_parameters
from gptcli.train.planning.probe import ProbeSetup, step_seconds
from gptcli.train.planning.small_text import packed_bits
from gptcli.train.planning.subset import scan_subset
from gptcli.train.planning.time_rule import LEAST_STEPS, TRAINING_PART, too_short
from gptcli.train.planning.zero_config import ZERO_CONFIG, CorpusFacts, Shape, choose_shape, longest_run, zero_config
from gptcli.train.resume import NEW, History, settings_fingerprint
from gptcli.train.step import accumulate_gradients, micro_batches
from gptcli.train.time_budget import FORWARD_PART, RunLength, TimeBudget

EPOCHS = "train.epochs"
RULES = (ZERO_CONFIG, TIME_RULE, FINE_TUNING)
"""The origins of settings that a rule chose."""
PROBE_SECONDS = 2.0
FEWEST_PROBES, MOST_PROBES = 2, 8
DEADLINE_PROBE_SECONDS = 0.5
"""Seconds of timed steps, about, from which the steps of a run that has a deadline, but no choice, are estimated."""
FINAL_PART = 0.05
"""Part of the time budget for the last evaluation; it measures the whole validation split if that takes no more."""


@dataclass(frozen=True)
class Deadline:
    """A run's time budget, and the estimates of what fits into it."""

    clock: Clock | None
    """The clock of the time budget; None on all ranks but the first, which alone reads it."""
    step_seconds: float
    steps: int
    final_tokens: int
    """Validation tokens for which the last evaluation has time."""


@dataclass(frozen=True)
class Plan:
    """Everything that is decided about a run before it starts."""

    config: RunConfig
    chosen: tuple[str, ...]
    """The keys that a rule chose."""
    scan: MixScan | None
    """The corpora before they were tokenized; None on ranks that received the plan from the first one."""
    data: PreparedMix
    batches: Batches
    device: torch.device
    precision: ResolvedPrecision
    parameters: int
    memory_bytes: int
    """Estimated memory of training: weights, gradients, optimizer state, activations."""
    cache_dir: Path
    """The directory of the cache, in which compiled code is kept too."""
    process_bytes: int = 0
    """The memory of the process on a CPU before the model is built: Python, PyTorch, and remains of preparing."""
    deadline: Deadline | None = None
    choice: Choice | None = None
    """The choice of the rule for a deadline, and its reasons."""
    compile_reason: str = ""
    """Why the loss is compiled or not, if that was left open."""
    start: InitialCheckpoint | None = None
    """The model that training starts from, if not from drawn weights."""
    first_step: int = 0
    """Steps that a resumed run has made before."""
    is_extended: bool = False
    """Whether the run is resumed with a time budget for which its steps so far were not planned."""

    @property
    def config_fingerprint(self) -> str:
        """Hex SHA-256 of the resolved configuration without the keys that a resume may change."""
        return settings_fingerprint(self.config.model_dump(mode="json"))

    @property
    def clock(self) -> Clock | None:
        """The clock of the time budget, or None without one."""
        return self.deadline.clock if self.deadline else None

    @property
    def steps(self) -> int:
        """The steps of the run, or those that it is expected to make in its time."""
        return self.deadline.steps if self.deadline else fixed_steps(self.config)

    @property
    def trained(self) -> int:
        """The number of weights that are trained: all, or those of the adapter and the rows of new tokens."""
        model, adapter = self.config.model, self.config.adapter
        if adapter.name == "none" or self.start is None:
            return self.parameters
        tables = 1 if model.tie_embeddings else 2
        return trained_parameters(model, adapter) + tables * len(self.start.new_ids) * model.n_embd

    @property
    def epochs(self) -> float:
        """The passes of the run over its training split."""
        return self.steps * self.config.sequences_per_step / self.batches.sequences_per_epoch

    @property
    def final_tokens(self) -> int:
        """Validation tokens of the last evaluation: all of them if there is time."""
        return min(len(self.data.val), self.deadline.final_tokens) if self.deadline else len(self.data.val)

    def new_model(self) -> GPT:
        """Return the model before its first step."""
        if self.start:
            model = self.start.build(self.config.model, self.device)
            add_adapter(model, self.config.adapter, self.config.seed, self.start.new_ids)
        else:
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


def fixed_steps(config: RunConfig) -> int:
    """Return train.max_steps, which every planned run without a deadline has.

    Raises:
        ConfigError: it is not set.
    """
    if config.train.max_steps is None:
        raise ConfigError("train.max_steps is not set", "set it, or train.epochs")
    return config.train.max_steps


def is_timed(user: RawConfig) -> bool:
    """Return whether a time budget ends the run."""
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
    """Read the corpus, resolve every key and prepare the tokens; only the cache is written.

    The configuration is validated three times, since each time more of it is known: before any work, so that mistakes
    are found at once; with the choices of the rules, which decide how the text is tokenized; and with the vocabulary
    and the steps, which follow from the tokens.

    Args:
        user: settings whose keys were checked.
        cache_dir: the directory of the cache.
        began: the start of the time budget, if there is one, on the clock of `time.monotonic()`.
        history: the history of a run that is resumed; its settings are complete, so no rule applies.
        start: the model that `train.init_from` names, if any.
        force: whether steps of a model that does not fit into the memory are measured all the same.

    Raises:
        OutOfMemoryError: the seconds of a step cannot be measured, since the model does not fit into the memory.
        ConfigError: a key or value is wrong (found before the corpus is read wherever that is possible).
        UsageError: the time budget is too small to train anything.
        DataError: the corpus cannot be read or is too small.
    """
    require_base(user, has_model=start is not None or history.is_resumed)
    user = settings_from(start, user) if start else user
    is_new = not history.is_resumed and start is None
    provisional = RawConfig() if history.is_resumed else choose_settings(DRAFT_FACTS, user)
    draft = validate(RunConfig, merge(provisional, user))
    tokenizer = history.tokenizer or (start.tokenizer if start else None)
    require_source(draft, chooses_for_time=is_timed(user) and is_new)
    device = resolve_device(draft.device)
    precision = resolve_precision(device, draft.train.precision)
    process_bytes = resident_memory_bytes(device)
    seconds, choice = draft.train.max_seconds, None
    clock = None if seconds is None else Clock(seconds, began)
    if clock is None or not is_new:  # the rule for a deadline chooses the shape, which is only open in a new run
        model = ExampleModel(tokenizer, draft.seq_len) if tokenizer else None
        scan = scan_subset(Workspace(draft.data, cache_dir, draft.seed, model=model), draft.train.corpus_bytes)
        facts = CorpusFacts(scan.train.bytes, device.type)
        chosen = RawConfig() if history.is_resumed else choose_settings(facts, user)
    else:
        request = TimedRequest(user, draft, clock, device, precision, machine_memory_bytes(device), cache_dir)
        scan, chosen, choice = choose_for_time(request)
    config = validate(RunConfig, merge(chosen, user))
    data = prepare_mix(scan, Workspace(config.data, cache_dir, config.seed), tokenizer)
    vocabulary = with_origin({"model": {"vocab_size": padded_vocabulary(config, data)}}, "the tokenizer")
    batches = Batches(data.train, config.seq_len, config.seed, config.data.pack)
    user = with_steps_of_epochs(user, config, batches.sequences_per_epoch, history.step)
    if choice is None and not history.is_resumed:
        facts = exact_facts(scan.train.bytes, device.type, data)._replace(sequences=batches.sequences_per_epoch)
        chosen = choose_exactly(chosen, facts, user)
    resolved = merge(chosen, user)
    config = validate(RunConfig, merge(resolved, vocabulary))
    memory_bytes = rank_memory(config, precision, device.type).total
    if clock and choice is None and not force:
        require_memory(config, memory_bytes, device)
    return Plan(
        config=config,
        chosen=tuple(key for key, origin in resolved.origins.items() if origin in RULES),
        scan=scan,
        data=data,
        batches=batches,
        device=device,
        precision=precision,
        parameters=parameter_count(config.model),
        memory_bytes=memory_bytes,
        cache_dir=cache_dir,
        # Trial steps for a deadline leave memory that the training uses again.
        process_bytes=process_bytes if choice else resident_memory_bytes(device),
        deadline=None
        if clock is None
        else deadline_of(clock, config, choice, device, made=history.step, is_new=is_new),
        choice=choice,
        start=start,
        first_step=history.step,
        is_extended=history.is_extended(config),
    )


def exact_facts(train_bytes: int, device_type: str, data: PreparedMix) -> CorpusFacts:
    """Return the facts for the zero-config rule after the text is tokenized.

    The repetition is measured only if the text is small and of one corpus.
    """
    facts = CorpusFacts(train_bytes, device_type, train_bytes / max(1, len(data.train)))
    first, *others = data.train.parts
    if not facts.is_small or others:
        return facts
    return facts._replace(packed_bits=packed_bits(data.tokenizer.decode(first.read(0, len(first)))))


def with_steps_of_epochs(user: RawConfig, config: RunConfig, sequences_per_epoch: int, made: int) -> RawConfig:
    """Return the user's settings with the `train.max_steps` that `train.epochs` amounts to.

    Raises:
        ConfigError: a resumed run has `made` more steps than that already.
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
    """Return the choices of the rules after the corpus is tokenized.

    For texts, the number of tokens decides only the steps of small ones and of runs whose epochs are set. A run that a
    clock ends gets its most steps here.
    """
    if is_of_examples(user):
        return fine_tuning(facts, user)
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
    """Return the deadline with the `made` steps and those that fit into the rest of the time.

    The seconds of a step are those that the rule measured, if it chose, or are measured now.

    Args:
        clock: the clock of the time budget.
        config: the resolved configuration.
        choice: the choice of the rule, if it chose.
        device: the device of the training.
        made: steps that a resumed run has made before.
        is_new: whether the run is neither resumed nor starts from a model; those may have any time left.

    Raises:
        UsageError: hardly any step fits.
    """
    train, left = config.train, clock.remaining()
    if choice is not None:
        seconds = choice.ranked[0].step_seconds
        left -= choice.ranked[0].compiling_seconds
    else:
        setup = ProbeSetup(device, resolve_precision(device, train.precision), config.optim, train.grad_clip)
        batch = (train.tokens_per_step, config.seq_len, train.batch_size)
        seconds = step_seconds(setup, config.model, *batch, DEADLINE_PROBE_SECONDS)
    steps = int(TRAINING_PART * left / seconds)
    if is_new and steps < LEAST_STEPS // 2:
        raise too_short(LEAST_STEPS * seconds / TRAINING_PART - left)
    final_tokens = FINAL_PART * clock.seconds / (FORWARD_PART * seconds / train.tokens_per_step)
    steps = made + max(1, steps)
    return Deadline(clock, seconds, min(steps, train.max_steps or steps), int(final_tokens))


def settle_compile(plan: Plan, step_seconds: float | None) -> Plan:
    """Return the plan with train.compile true or false, as run.toml records it, and the reason if it was auto.

    Raises:
        UsageError: true was set, and the compiler that torch needs is missing.
    """
    seconds = None if step_seconds is None else step_seconds * plan.steps
    train = plan.config.train
    wanted, reason = choose_compile(train.compile, plan.device, plan.config.model, seconds)
    config = plan.config.model_copy(update={"train": train.model_copy(update={"compile": wanted})})
    return replace(plan, config=config, compile_reason=reason)


def padded_vocabulary(config: RunConfig, data: PreparedMix) -> int:
    """Return the model's vocabulary: the tokenizer's, or a larger one that the user set, such as GPT-2's 50304.

    Raises:
        ConfigError: the user set a smaller one.
    """
    wanted, needed = config.model.vocab_size, data.tokenizer.vocab_size
    if wanted and wanted < needed:
        raise ConfigError(
            f"model.vocab_size {wanted} is smaller than the tokenizer's {needed}",
            "leave it out, or add --set model.vocab_size=0",
        )
    return wanted or needed


def probe_step_seconds(plan: Plan, model: GPT) -> float:
    """Return the seconds of one optimizer step, by the fastest of a few timed micro-batches.

    At least FEWEST_PROBES are timed, since the first ones wait for libraries. No gradient is left. The optimizer's own
    time is not included, so the estimate is slightly low for small batches.
    """
    config = plan.config
    micro_batch = next(micro_batches(plan.batches, 0, config.sequences_per_step, config.train.batch_size))
    no_scaler = torch.amp.GradScaler(plan.device.type, enabled=False)
    seconds: list[float] = []

    def backpropagate() -> None:
        accumulate_gradients(Alone(model), [micro_batch], plan.device, plan.precision, no_scaler)

    while len(seconds) < FEWEST_PROBES or (len(seconds) < MOST_PROBES and sum(seconds) < PROBE_SECONDS):
        seconds.append(seconds_of_call(backpropagate, plan.device))
    model.zero_grad(set_to_none=True)
    return min(seconds) * config.sequences_per_step / len(micro_batch.input_ids)
