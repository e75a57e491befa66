"""The choice of all settings for a deadline: sample the text, measure the machine, choose by the rule, give reasons.

The order matters, since every part takes some of the time that is planned: first the sample, which says how much of the
corpus there is time to read, then the probe of the machine, and last the choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gptcli.config import RawConfig, merge
from gptcli.config.load import with_origin
from gptcli.console import size
from gptcli.data.archives import file_status
from gptcli.data.config import DataConfig
from gptcli.data.mix import MixScan
from gptcli.data.sources import find_files, is_stream, spool
from gptcli.data.stages import SplitStatistics
from gptcli.data.token_files import is_token_file
from gptcli.data.workspace import Workspace
from gptcli.models.estimate import parameter_count
from gptcli.nn.device import ResolvedPrecision
from gptcli.train.clock import Clock
from gptcli.train.compiling import possible_compilation
from gptcli.train.config import RunConfig
from gptcli.train.planning.probe import ProbeSetup, measure, seconds_per_flop
from gptcli.train.planning.scaling_law import shipped_law
from gptcli.train.planning.small_text import SMALL_TEXT
from gptcli.train.planning.subset import scan_subset
from gptcli.train.planning.text_sample import TokenizerFacts, preparing_seconds, read_sample, tokenizer_facts
from gptcli.train.planning.time_rule import Candidate, CandidateGrid, Prediction, RuleInputs, too_short
from gptcli.train.planning.zero_config import CorpusFacts, within, without_set, zero_config
from gptcli.train.time_budget import FORWARD_PART

TIME_RULE = "the rule for --time"

SMALL_ON_DISK = 2 * SMALL_TEXT
"""Bytes below which a corpus is split before anything is measured, since it may be a small text; that takes no time."""
SAMPLE_BYTES_PER_SECOND, SAMPLE_BYTES = 10_000, (300_000, 4_000_000)
"""Bytes of the sample for each second of the budget, and their bounds."""
PROBE_PART, PROBE_SECONDS = 0.03, (1.5, 30.0)
"""Part of the budget for measuring the machine, and the bounds of its seconds."""
PREPARE_PART = 0.15
"""Part of the budget for reading, splitting and encoding the corpus; more of it is not read."""
EVALUATE_PART, SAVE_PART = 0.02, 0.02
"""Parts of the budget for evaluations before the last one and for checkpoints."""
EVALUATIONS = (3, 12)
SAVED_BYTES, SAVED_BYTES_PER_SECOND, SAVING_SECONDS = 12, 1e8, 0.1
"""Estimate of a checkpoint: bytes of a weight with its moments, bytes a second to write, flush and hash, a constant."""
SAMPLE_SECONDS, SAMPLES = 30, (1, 5)
"""Seconds of the budget for each sample of generated text, and the bounds of their number."""
LINES = 200
"""Lines of metrics.jsonl, about."""
WARMUP_PART, WARMUP_STEPS = 20, (5, 50)
"""Part of the steps that warm up, as a divisor, and its bounds."""


@dataclass(frozen=True)
class Choice:
    """The choice of the rule, and its alternatives."""

    ranked: tuple[Prediction, ...]
    """The best one, then the runners-up."""
    candidates: int
    """The number of candidates."""
    subset: str
    """The part of the corpus that is read, in words; empty: all of it."""


@dataclass(frozen=True)
class TimedRequest:
    """The facts that are known before the text is sampled."""

    user: RawConfig
    draft: RunConfig
    clock: Clock
    device: torch.device
    precision: ResolvedPrecision
    memory_bytes: int
    cache_dir: Path


class SampledText(NamedTuple):
    """The results of sampling the corpus."""

    tokenizers: list[TokenizerFacts]
    """The tokenizers in question."""
    corpus_bytes: int
    """Bytes of the corpus on disk."""
    limit: int | None
    """Bytes of the corpus to read; None: all of them."""


def choose_for_time(request: TimedRequest) -> tuple[MixScan, RawConfig, Choice | None]:
    """Return the scanned corpus, a value for every key that the user left open, and the reasons.

    A small text is trained on as without a deadline, with None for the reasons: the text bounds its shape and steps,
    not the time, and the scaling law was fitted to larger texts.

    Raises:
        UsageError: the time is too short to train anything.
        DataError: the corpus cannot be read or is too small.
    """
    draft = request.draft
    data = replayable(draft.data, request.cache_dir)
    workspace = Workspace(data, request.cache_dir, draft.seed)
    small = None
    # Tokens without their text are refused when the text is sampled, however few they are.
    is_text = not any(map(is_token_file, data.corpus))
    if is_text and bytes_on_disk(data, request.cache_dir) < SMALL_ON_DISK:
        small = scan_subset(workspace, draft.train.corpus_bytes)
    if small is None or small.train.bytes >= SMALL_TEXT:
        sampled = look_at_text(request, data)
        scan = scan_subset(workspace, sampled.limit)
        if sampled.limit != draft.train.corpus_bytes or scan.train.bytes >= SMALL_TEXT:
            return scan, *choose_by_rule(request, scan, sampled)
        small = scan
    return small, zero_config(CorpusFacts(small.train.bytes, request.device.type), request.user), None


def choose_by_rule(request: TimedRequest, scan: MixScan, sampled: SampledText) -> tuple[RawConfig, Choice]:
    """Measure the machine and return the settings that the rule for a deadline chooses, and the reasons.

    Raises:
        UsageError: the time is too short to train anything.
    """
    clock, draft, facts = request.clock, request.draft, sampled.tokenizers
    if scan.unseen_characters:  # a tokenizer of the training part's characters would lose those of the validation part
        facts = [fact for fact in facts if fact.config.name != "char"] or facts
    setup = ProbeSetup(request.device, request.precision, draft.optim, draft.train.grad_clip)
    probing = within(PROBE_PART * clock.seconds, *PROBE_SECONDS)
    inputs = RuleInputs(
        unique_bytes=scan.train.bytes,
        seconds=clock.remaining() - probing,
        tokenizers=facts,
        optim=draft.optim,
        given=request.user.values,
        device_type=request.device.type,
        memory_bytes=request.memory_bytes,
        least_flop=seconds_per_flop(setup),
        compilation=possible_compilation(draft.train.compile, request.device, draft.model),
    )
    if inputs.seconds <= 0:
        raise too_short(-inputs.seconds)
    grid = CandidateGrid(inputs)
    ranked = measure(setup, grid, shipped_law(), probing)
    best, subset = ranked[0], ""
    more = choose_intervals(best, clock.seconds)
    if best.compiling_seconds:
        more["compile"] = True
    more["max_steps"] = best.most_steps
    if sampled.limit is not None:
        more["corpus_bytes"] = sampled.limit
        if sampled.limit != draft.train.corpus_bytes:
            subset = f"{size(sampled.limit)} of about {size(sampled.corpus_bytes)} are read: there is time for no more"
    settings = settle(best.candidate, best.steps, scan.train, request.device.type, request.user, more)
    return settings, Choice(tuple(ranked), len(grid.candidates), subset)


def bytes_on_disk(data: DataConfig, cache_dir: Path) -> int:
    """Return the bytes of the corpus's files, compressed or not."""
    return sum(file_status(file.path).size for file in find_files(data.corpus, data, cache_dir).files)


def look_at_text(request: TimedRequest, data: DataConfig) -> SampledText:
    """Sample the corpus and return the tokenizers in question and how much there is time to read."""
    clock, given = request.clock, request.user.values.get("data", {}).get("tokenizer")
    wanted = within(SAMPLE_BYTES_PER_SECOND * clock.seconds, *SAMPLE_BYTES)
    sample = read_sample(data, int(wanted), request.cache_dir, request.draft.seed)
    is_settled = given is not None and (not isinstance(given, Mapping) or "vocab_size" in given)
    limit = request.draft.train.corpus_bytes
    read = sample.corpus_bytes if limit is None else min(limit, sample.corpus_bytes)
    chosen = None if given is None else data.tokenizer
    facts = tokenizer_facts(sample._replace(corpus_bytes=read), chosen, is_settled)
    if limit is None:
        fitting = int(PREPARE_PART * clock.seconds / preparing_seconds(sample, facts))
        limit = fitting if fitting < sample.corpus_bytes else None
    return SampledText(facts, sample.corpus_bytes, limit)


def replayable(data: DataConfig, cache_dir: Path) -> DataConfig:
    """Return the same corpus with a copy of each source that can be read only once, such as stdin or a pipe."""
    sources = tuple(str(spool(source, data, cache_dir)) if is_stream(source) else source for source in data.corpus)
    return data.model_copy(update={"corpus": sources})


def settle(
    candidate: Candidate, steps: int, text: SplitStatistics, device_type: str, user: RawConfig, more: Mapping[str, Any]
) -> RawConfig:
    """Return a candidate as settings, with those that follow by the zero-config rule, without what the user set.

    Args:
        candidate: the candidate.
        steps: the steps that it is expected to make; they decide the regularisation and are not a setting themselves.
        text: the training split.
        device_type: cpu, cuda or mps.
        user: the user's settings.
        more: further keys of [train].
    """
    model = {name: getattr(candidate.model, name) for name in ("n_layer", "n_embd", "context_length")}
    chosen = {
        "data": {"tokenizer": candidate.tokenizer.config.model_dump(mode="json", exclude_none=True)},
        "model": model,
        "train": {"tokens_per_step": candidate.tokens_per_step, **more},
        "schedule": {"warmup_steps": int(within(steps / WARMUP_PART, *WARMUP_STEPS))},
    }
    mine = with_origin(without_set(chosen, user), TIME_RULE)
    expected = RawConfig({"train": {"max_steps": steps}})
    facts = CorpusFacts(text.bytes, device_type, candidate.tokenizer.bytes_per_token, shape_is_chosen=True)
    return merge(zero_config(facts, merge(mine, user, expected)), mine)


def choose_intervals(best: Prediction, seconds: float) -> dict[str, Any]:
    """Return the intervals of evaluations, checkpoints, samples and log lines that fit into their parts of the time."""
    saving = SAVING_SECONDS + SAVED_BYTES * parameter_count(best.candidate.model) / SAVED_BYTES_PER_SECOND
    evaluations = int(within(SAVE_PART * seconds / saving, *EVALUATIONS))
    samples = int(within(seconds / SAMPLE_SECONDS, *SAMPLES))
    every = max(1, best.steps // evaluations)
    return {
        "eval_every_steps": every,
        "eval_tokens": max(best.candidate.seq_len, tokens_in(EVALUATE_PART * seconds / evaluations, best)),
        "checkpoint_every_steps": every,
        "sample_every_steps": max(1, best.steps // (samples + 1)),
        "log_every_steps": max(1, best.steps // LINES),
    }


def tokens_in(seconds: float, best: Prediction) -> int:
    """Return about how many tokens are evaluated in these seconds."""
    return int(seconds / (FORWARD_PART * best.step_seconds / best.candidate.tokens_per_step))
