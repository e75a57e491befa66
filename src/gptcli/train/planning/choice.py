"""A run for a deadline, planned: look at the text, measure the machine, choose by the rule, and say why.

The order matters, since every part costs some of the time that is planned: a sample of the text, how much of the corpus
there is time to read, the machine, and last the choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gptcli.config import RawConfig, merge
from gptcli.config.load import with_origin
from gptcli.console import size
from gptcli.data.archives import file_status
from gptcli.data.config import DataConfig
from gptcli.data.mix import MixScan
from gptcli.data.scan import SplitStatistics
from gptcli.data.sources import find_files, is_stream, spool
from gptcli.data.token_files import is_token_file
from gptcli.data.workspace import Workspace
from gptcli.models.estimate import parameter_count
from gptcli.train.clock import Clock
from gptcli.train.compiling import possible_compilation
from gptcli.train.config import RunConfig
from gptcli.train.planning.probe import ProbeSetup, measure, seconds_per_flop
from gptcli.train.planning.scaling_law import shipped_law
from gptcli.train.planning.small_text import SMALL_TEXT
from gptcli.train.planning.subset import scan_subset
from gptcli.train.planning.text_sample import TokenizerFacts, preparing_seconds, read_sample, tokenizer_facts
from gptcli.train.planning.time_rule import Candidate, CandidateGrid, Prediction, RuleInputs, too_short
from gptcli.train.planning.zero_config import CorpusFacts, without_set, zero_config
from gptcli.train.time_budget import FORWARD_PART

TIME_RULE = "the rule for --time"

SMALL_ON_DISK = 2 * SMALL_TEXT
"""A corpus of fewer bytes is split before anything is measured, since it may be a small text; that takes no time."""
SAMPLE_BYTES_PER_SECOND, SAMPLE_BYTES = 10_000, (300_000, 4_000_000)
"""How much text to look at: so much for each second of the budget, within bounds."""
PROBE_PART, PROBE_SECONDS = 0.03, (1.5, 30.0)
"""Part of the budget that measuring the machine takes, and its bounds."""
PREPARE_PART = 0.15
"""Part of the budget that reading, splitting and encoding the corpus may take; what is beyond is not read."""
EVALUATE_PART, SAVE_PART = 0.02, 0.02
"""Parts of the budget for evaluations on the way and for checkpoints."""
EVALUATIONS = (3, 12)
SAVED_BYTES, SAVED_BYTES_PER_SECOND, SAVING_SECONDS = 12, 1e8, 0.1
"""What a checkpoint takes, about: bytes of a weight with its moments, written, flushed and hashed, and a constant."""
SAMPLE_SECONDS, SAMPLES = 30, (1, 5)
"""A sample of generated text for so many seconds of the budget, within bounds."""
LINES = 200
"""Of metrics.jsonl, about."""
WARMUP_STEPS = (5, 50)


@dataclass(frozen=True)
class Choice:
    """What the rule chose, and what it chose from."""

    ranked: tuple[Prediction, ...]
    """The best one, then the runners-up."""
    candidates: int
    subset: str
    """What of the corpus is read, in words; empty: all of it."""


@dataclass(frozen=True)
class TimedRequest:
    """What is known before the text is looked at."""

    user: RawConfig
    draft: RunConfig
    clock: Clock
    device: torch.device
    precision: str
    memory_bytes: int
    cache_dir: Path


def choose_for_time(setting: TimedRequest) -> tuple[MixScan, RawConfig, Choice | None]:
    """The corpus, scanned; every key that the user left open; and why.

    A small text is trained on as without a deadline (None for the reason): its shape and its steps are bounded by the
    text, not by the time, and the law was fitted to larger ones.

    Raises:
        UsageError: the time is too short to train anything.
        DataError: the corpus cannot be read or is too small.
    """
    clock, draft = setting.clock, setting.draft
    data = replayable(draft.data, setting.cache_dir)
    workspace = Workspace(data, setting.cache_dir, draft.seed)
    small = None
    # Tokens without their text are refused when the text is looked at, however few they are.
    is_text = not any(map(is_token_file, data.corpus))
    if is_text and bytes_on_disk(data, setting.cache_dir) < SMALL_ON_DISK:
        small = scan_subset(workspace, draft.train.corpus_bytes)
    if small is None or small.train.bytes >= SMALL_TEXT:
        facts, corpus_bytes, limit = look_at_text(setting, data)
        scan = scan_subset(workspace, limit)
        if limit == draft.train.corpus_bytes and scan.train.bytes < SMALL_TEXT:
            small = scan
    if small is not None and small.train.bytes < SMALL_TEXT:
        return small, zero_config(CorpusFacts(small.train.bytes, setting.device.type), setting.user), None
    if scan.unseen_characters:  # a text with characters that the training part lacks could not be given back
        facts = [fact for fact in facts if fact.config.name != "char"] or facts
    machine = ProbeSetup(setting.device, setting.precision, draft.optim, draft.train.grad_clip)
    probing = within(PROBE_PART * clock.seconds, PROBE_SECONDS)
    situation = RuleInputs(
        unique_bytes=scan.train.bytes,
        seconds=clock.remaining() - probing,
        tokenizers=facts,
        optim=draft.optim,
        given=setting.user.values,
        device_type=setting.device.type,
        memory_bytes=setting.memory_bytes,
        least_flop=seconds_per_flop(machine),
        compilation=possible_compilation(draft.train.compile, setting.device, draft.model),
    )
    if situation.seconds <= 0:
        raise too_short(-situation.seconds)
    grid = CandidateGrid(situation)
    ranked = measure(machine, grid, shipped_law(), probing)
    more, subset = choose_intervals(ranked[0], clock.seconds), ""
    if ranked[0].compiling_seconds:
        more["compile"] = True
    more["max_steps"] = ranked[0].most_steps
    if limit is not None:
        more["corpus_bytes"] = limit
    if limit != draft.train.corpus_bytes:
        subset = f"{size(limit)} of about {size(corpus_bytes)} are read: there is time for no more"
    best, steps = ranked[0].candidate, ranked[0].steps
    settings = settle(best, steps, scan.train, setting.device.type, setting.user, more)
    return scan, settings, Choice(tuple(ranked), len(grid.candidates), subset)


def bytes_on_disk(data: DataConfig, cache_dir: Path) -> int:
    """Bytes of the corpus's files, compressed as they may be."""
    return sum(file_status(file.path).size for file in find_files(data.corpus, data, cache_dir).files)


def look_at_text(setting: TimedRequest, data: DataConfig) -> tuple[list[TokenizerFacts], int, int | None]:
    """The tokenizers in question, the bytes of the corpus on disk, and how many of them to read (none: all)."""
    clock, given = setting.clock, setting.user.values.get("data", {}).get("tokenizer")
    wanted = within(SAMPLE_BYTES_PER_SECOND * clock.seconds, SAMPLE_BYTES)
    sample = read_sample(data, int(wanted), setting.cache_dir, setting.draft.seed)
    is_settled = given is not None and (not isinstance(given, Mapping) or "vocab_size" in given)
    limit = setting.draft.train.corpus_bytes
    read = sample.corpus_bytes if limit is None else min(limit, sample.corpus_bytes)
    chosen = None if given is None else data.tokenizer
    facts = tokenizer_facts(sample._replace(corpus_bytes=read), chosen, is_settled)
    if limit is None:
        fitting = int(PREPARE_PART * clock.seconds / preparing_seconds(sample, facts))
        limit = fitting if fitting < sample.corpus_bytes else None
    return facts, sample.corpus_bytes, limit


def replayable(data: DataConfig, cache_dir: Path) -> DataConfig:
    """The same corpus with a copy for each source that can be read only once (stdin, a pipe)."""
    sources = tuple(str(spool(source, data, cache_dir)) if is_stream(source) else source for source in data.corpus)
    return data.model_copy(update={"corpus": sources})


def settle(
    candidate: Candidate, steps: int, text: SplitStatistics, device_type: str, user: RawConfig, more: Mapping[str, Any]
) -> RawConfig:
    """A candidate as settings, with what follows from it by the zero-config rule; what the user set is left out.

    Args:
        steps: how many it is expected to make; they regularise it, but are no part of the settings.
        text: the training split.
        more: further keys of [train].
    """
    model = {name: getattr(candidate.model, name) for name in ("n_layer", "n_embd", "context_length")}
    chosen = {
        "data": {"tokenizer": candidate.tokenizer.config.model_dump(mode="json", exclude_none=True)},
        "model": model,
        "train": {"tokens_per_step": candidate.tokens_per_step, **more},
        "schedule": {"warmup_steps": int(within(steps / 20, WARMUP_STEPS))},
    }
    mine = with_origin(without_set(chosen, user), TIME_RULE)
    expected = RawConfig({"train": {"max_steps": steps}})
    facts = CorpusFacts(text.bytes, device_type, candidate.tokenizer.bytes_per_token, shape_is_chosen=True)
    return merge(zero_config(facts, merge(mine, user, expected)), mine)


def choose_intervals(best: Prediction, seconds: float) -> dict[str, Any]:
    """Evaluations, checkpoints, samples and lines, as many as take no more than their part of the time."""
    saving = SAVING_SECONDS + SAVED_BYTES * parameter_count(best.candidate.model) / SAVED_BYTES_PER_SECOND
    evaluations = int(within(SAVE_PART * seconds / saving, EVALUATIONS))
    samples = int(within(seconds / SAMPLE_SECONDS, SAMPLES))
    every = max(1, best.steps // evaluations)
    return {
        "eval_every_steps": every,
        "eval_tokens": max(best.candidate.seq_len, tokens_in(EVALUATE_PART * seconds / evaluations, best)),
        "checkpoint_every_steps": every,
        "sample_every_steps": max(1, best.steps // (samples + 1)),
        "log_every_steps": max(1, best.steps // LINES),
    }


def tokens_in(seconds: float, best: Prediction) -> int:
    """How many tokens are evaluated in these seconds, about."""
    return int(seconds / (FORWARD_PART * best.step_seconds / best.candidate.tokens_per_step))


def within(value: float, bounds: tuple[float, float]) -> float:
    """`value`, or the bound that it passes."""
    return min(max(value, bounds[0]), bounds[1])
