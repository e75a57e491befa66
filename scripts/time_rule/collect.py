"""Recorded small training runs, drawn at random over everything that the rule for a deadline chooses.

A run ends by its steps and has the settings that the rule would give its shape, so that the scaling law is fitted to
such runs as it predicts.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import random
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from gptcli import __version__
from gptcli.checkpoint.metrics import MetricsLog
from gptcli.config import RawConfig, merge
from gptcli.config.load import arrays_as_tuples
from gptcli.data.config import DataConfig
from gptcli.data.mix import MixScan, prepare_mix
from gptcli.data.workspace import Workspace
from gptcli.errors import GptcliError, Stopped, UsageError
from gptcli.models.config import ModelConfig
from gptcli.models.estimate import flops_per_token, non_embedding_parameters
from gptcli.storage import default_cache_dir
from gptcli.tokenizer.config import BpeTokenizerConfig, CharTokenizerConfig, TokenizerConfig
from gptcli.train.planning.choice import settle
from gptcli.train.planning.scaling_law import Runs, excess_bits, shipped_law
from gptcli.train.planning.subset import scan_subset
from gptcli.train.planning.text_sample import BYTES_PER_ENTRY, MAX_CHARACTERS, VOCABULARIES, TokenizerFacts
from gptcli.train.planning.time_rule import CONTEXTS, LAYERS, WIDTH_PER_LAYER, WIDTHS, Candidate, step_tokens
from gptcli.train.planning.zero_config import ModelShape, choose_model, micro_batch_sequences
from gptcli.train.run import TrainRequest, train

CORPUS_BYTES = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000)
"""Sizes of the subsets, which stand for corpora of these sizes."""
STEPS = (40, 20_000)
LEAST_WIDTH = 48
TOKENS_PER_WEIGHT = (1, 500)
EPOCHS = 64
ATTEMPTS = 20_000
CHOICES = 100
EVALUATIONS, EVALUATED_TOKENS = 6, 50_000
SEED = 1
OPTIM_KEYS = ("name", "lr", "adamw_lr", "embedding_lr", "head_lr", "momentum", "weight_decay")


class Source(NamedTuple):
    """A corpus and the name under which its runs are recorded."""

    name: str
    path: str


class Text(NamedTuple):
    """A corpus, or a subset of it, and its name in the records."""

    source: Source
    corpus_bytes: int | None
    scan: MixScan


class Drawn(NamedTuple):
    """A run to make."""

    tokenizer: TokenizerConfig
    model: ModelConfig
    tokens_per_step: int
    steps: int
    bytes_per_token: float
    """About."""


class Plan(NamedTuple):
    """The runs to make."""

    count: int
    flops: tuple[float, float]
    """The least and the most operations of a run."""
    within: float | None
    """See draw."""


def collect(corpora: Sequence[str], path: Path, plan: Plan, cache_dir: Path | None) -> int:
    """Make the runs 0 .. count - 1 of every corpus that are not recorded yet, and append them to `path`."""
    cache = cache_dir or default_cache_dir()
    sources = [named(corpus) for corpus in corpora]
    recorded = {(run["corpus"], run["number"]) for run in read_runs(path)}
    texts = {source: list(subsets(source, cache)) for source in sources}
    for number in range(plan.count):
        for source in sources:
            if (source.name, number) in recorded:
                continue
            generator = random.Random(f"{source.name}/{number}")
            text = generator.choice(texts[source])
            drawn = draw(generator, text.scan, plan.flops, plan.within)
            run = {"corpus": source.name, "number": number} | make(text, drawn, cache)
            append(path, run)
    return 0


def named(corpus: str) -> Source:
    """`NAME=CORPUS`, or a corpus named after its last part."""
    name, equals, path = corpus.partition("=")
    return Source(name, path) if equals else Source(Path(corpus).name, corpus)


def read_runs(path: Path) -> list[dict[str, Any]]:
    """Return the recorded runs; none if there is no file yet."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def subsets(source: Source, cache: Path) -> Iterator[Text]:
    """Yield the corpus in every size that it has, the whole of it last."""
    config = DataConfig(corpus=(source.path,))
    whole = scan_subset(Workspace(config, cache, SEED), None)
    for size in CORPUS_BYTES:
        if size < 0.7 * (whole.train.bytes + whole.val.bytes):
            yield Text(source, size, scan_subset(Workspace(config, cache, SEED), size))
    if whole.train.bytes <= 1.5 * CORPUS_BYTES[-1]:
        yield Text(source, None, whole)


def draw(generator: random.Random, scan: MixScan, flops: tuple[float, float], within: float | None = None) -> Drawn:
    """Draw a run of so many operations on this text: any tokenizer, shape, context and batch that make sense together.

    Args:
        within: bits per byte by which the law as it is may take the run for worse than the best of CHOICES runs of as
            many operations. None: any run.

    Raises:
        UsageError: there is none.
    """
    wanted = math.exp(generator.uniform(*map(math.log, flops)))
    if within is None:
        return draw_sensible(generator, scan, wanted)
    drawn = [draw_sensible(generator, scan, wanted) for _ in range(CHOICES)]
    bits = [excess_bits(shipped_law(), runs_of(one, scan)) for one in drawn]
    return generator.choice([one for one, own in zip(drawn, bits, strict=True) if own <= min(bits) + within])


def runs_of(drawn: Drawn, scan: MixScan) -> Runs:
    """Return the facts of a run that the scaling law needs, with an estimate of the bytes of a token."""
    return Runs(
        weights=non_embedding_parameters(drawn.model),
        layers=drawn.model.n_layer,
        width=drawn.model.n_embd,
        vocabulary=drawn.model.vocab_size,
        context=drawn.model.context_length,
        tokens_per_step=drawn.tokens_per_step,
        bytes_per_token=drawn.bytes_per_token,
        unique_bytes=scan.train.bytes,
        bytes_seen=drawn.steps * drawn.tokens_per_step * drawn.bytes_per_token,
    )


def draw_sensible(generator: random.Random, scan: MixScan, wanted: float) -> Drawn:
    """Draw a run of `wanted` operations."""
    for _ in range(ATTEMPTS):
        tokenizer, per_token = draw_tokenizer(generator, scan)
        layers, width, context = generator.choice(LAYERS), generator.choice(WIDTHS), generator.choice(CONTEXTS)
        if width < LEAST_WIDTH or not WIDTH_PER_LAYER[0] <= width / layers <= WIDTH_PER_LAYER[1]:
            continue
        vocabulary = getattr(tokenizer, "vocab_size", scan.train.distinct_characters + 2)
        values = choose_model(ModelShape(layers, width, context), {}) | {"vocab_size": vocabulary}
        model = ModelConfig.model_validate(values)
        tokens_per_step = generator.choice(step_tokens({}, context))
        steps = round(wanted / flops_per_token(model, context) / tokens_per_step)
        tokens = steps * tokens_per_step
        low, high = TOKENS_PER_WEIGHT
        if (
            STEPS[0] <= steps <= STEPS[1]
            and low <= tokens / non_embedding_parameters(model) <= high
            and tokens * per_token <= EPOCHS * scan.train.bytes
            and scan.train.bytes > 20 * context * per_token
        ):
            return Drawn(tokenizer, model, tokens_per_step, steps, per_token)
    raise UsageError(f"no run of {wanted:g} operations makes sense on {scan.train.bytes:,} bytes")


def draw_tokenizer(generator: random.Random, scan: MixScan) -> tuple[TokenizerConfig, float]:
    """Draw a tokenizer, and estimate the bytes of a token."""
    kinds: list[TokenizerConfig] = [
        BpeTokenizerConfig(vocab_size=size) for size in VOCABULARIES if size * BYTES_PER_ENTRY <= scan.train.bytes
    ]
    if scan.train.distinct_characters <= MAX_CHARACTERS and not scan.unseen_characters:
        kinds.append(CharTokenizerConfig())
    chosen = generator.choice(kinds or [CharTokenizerConfig()])
    per_token = scan.train.bytes / scan.train.characters if isinstance(chosen, CharTokenizerConfig) else 3.0
    return chosen, per_token


def make(text: Text, drawn: Drawn, cache: Path) -> dict[str, Any]:
    """Make one run and return its record, or the reason if it failed."""
    data = DataConfig(corpus=(text.source.path,), tokenizer=drawn.tokenizer)
    with contextlib.redirect_stderr(io.StringIO()):
        prepared = prepare_mix(text.scan, Workspace(data, cache))
    per_token = prepared.corpora[0].train.bytes / len(prepared.train)
    facts = TokenizerFacts(drawn.tokenizer, prepared.tokenizer.vocab_size, per_token, 0.0)
    seq_len = drawn.model.context_length
    candidate = Candidate(facts, drawn.model, seq_len, drawn.tokens_per_step, micro_batch_sequences("cpu", seq_len))
    fixed = {
        "seed": SEED,
        "train": {
            "max_steps": drawn.steps,
            "eval_every_steps": max(1, drawn.steps // EVALUATIONS),
            "eval_tokens": EVALUATED_TOKENS,
            "checkpoint_every_steps": drawn.steps,
            "sample_every_steps": 0,
        },
    }
    if text.corpus_bytes is not None:
        fixed["train"]["corpus_bytes"] = text.corpus_bytes
    settings = merge(settle(candidate, drawn.steps, text.scan.train, "cpu", RawConfig(fixed), {}), RawConfig(fixed))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            train_into(Path(folder) / "run", text.source.path, settings, cache)
        except Stopped:
            raise
        except GptcliError as error:
            return {"failed": str(error)}
        return record_of(Path(folder) / "run") | {"seconds": round(time.perf_counter() - began, 1)}


def train_into(out: Path, corpus: str, settings: RawConfig, cache: Path) -> None:
    """Train with `settings` without output."""
    config = out.with_suffix(".toml")
    config.write_text(tomli_w.dumps(settings.values))
    with contextlib.redirect_stderr(io.StringIO()):
        train(TrainRequest(corpus=(corpus,), config_files=(str(config),), out=out, cache_dir=cache))


def record_of(run: Path) -> dict[str, Any]:
    """Return the record of a finished run: its text, its settings, and the bits per byte of its best and last weights.

    Raises:
        UsageError: it was not measured on its whole validation split.
    """
    settings = tomllib.loads((run / "run.toml").read_text())
    summary, data = (json.loads((run / name).read_text()) for name in ("summary.json", "data.json"))
    if summary["val_part"] < 1:
        raise UsageError(f"{run} was measured on a part of its validation split", "train it with a smaller one")
    losses = [line["val_loss"] for line in MetricsLog(run / "metrics.jsonl").read() if line["val_loss"]]
    bits_per_nat = summary["val_bits_per_byte"] / summary["val_loss"]
    model = ModelConfig(**arrays_as_tuples(settings["model"]))
    unique, tokens = data["train"]["bytes"], summary["tokens"]
    per_token = unique / data["train_tokens"]
    return {
        "corpus_bytes": settings["train"].get("corpus_bytes"),
        "unique_bytes": unique,
        "tokenizer": data["tokenizer"]["name"],
        "vocab_size": data["tokenizer"]["vocab_size"],
        "bytes_per_token": round(per_token, 4),
        "n_layer": model.n_layer,
        "n_embd": model.n_embd,
        "context_length": model.context_length,
        "weights": non_embedding_parameters(model),
        "parameters": summary["parameters"],
        "tokens_per_step": settings["train"]["tokens_per_step"],
        "steps": summary["steps"],
        "tokens": tokens,
        "bytes_seen": round(tokens * per_token),
        "epochs": round(tokens / data["train_tokens"], 3),
        "optim": {name: settings["optim"][name] for name in OPTIM_KEYS},
        "warmup_steps": settings["schedule"]["warmup_steps"],
        "bits_per_byte": round(summary["val_bits_per_byte"], 5),
        "last_bits_per_byte": round(losses[-1] * bits_per_nat, 5),
        "train_bits_per_byte": round(summary["train_loss"] * bits_per_nat, 5),
        "seconds": round(summary["train_seconds"], 1),
        "version": __version__,
    }


def adopt(runs: Sequence[str], path: Path) -> int:
    """Append the records of finished runs, each `NAME=RUN`, to those of the corpus NAME."""
    for name, run in map(named, runs):
        number = 1 + max((one["number"] for one in read_runs(path) if one["corpus"] == name), default=-1)
        append(path, {"corpus": name, "number": number} | record_of(Path(run)))
    return 0


def append(path: Path, run: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(run) + "\n")
    print(in_words(run), flush=True)


def in_words(run: dict[str, Any]) -> str:
    if "failed" in run:
        return f"{run['corpus']} {run['number']}: {run['failed']}"
    return (
        f"{run['corpus']} {run['number']}: {run['unique_bytes'] / 1e6:.2g} MB, {run['tokenizer']} {run['vocab_size']}, "
        f"{run['n_layer']} x {run['n_embd']}, context {run['context_length']}, {run['steps']} steps of "
        f"{run['tokens_per_step']}, {run['epochs']:.2g} epochs: {run['bits_per_byte']} bits per byte, "
        f"{run['seconds']} s"
    )
