"""Real trainings of a tiny model by one process or by several ranks that the command starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from numbered_lines import numbered_lines

SETTINGS: dict[str, object] = {
    "model.n_layer": 2,
    "model.n_embd": 32,
    "model.n_head": 8,
    "model.n_kv_head": 4,
    "model.context_length": 16,
    "data.tokenizer.name": "char",
    "optim.name": "muon",
    "optim.lr": 0.01,
    "optim.ns_precision": "fp32",
    "optim.weight_decay": 4.0,
    "schedule.name": "linear",
    "schedule.warmup_steps": 50,
    "train.max_steps": 50,
    "train.tokens_per_step": 128,
    "train.batch_size": 2,
    "train.precision": "fp32",
    "train.eval_every_steps": 25,
    "train.eval_tokens": 300,
    "train.checkpoint_every_steps": 25,
    "train.log_every_steps": 1,
    "train.sample_every_steps": 25,
    "train.sample_tokens": 8,
    "device": "cpu",
}


def make_corpus(folder: Path) -> Path:
    path = folder / "corpus.txt"
    path.write_text(numbered_lines(300))
    return path


GPTCLI = (sys.executable, "-m", "gptcli")


def train_arguments(corpus: Path | None, run: Path, *options: str, **settings: object) -> list[str]:
    """What follows `gptcli`; settings override SETTINGS, with `__` for a dot; none takes one away."""
    assignments = SETTINGS if corpus else {}
    assignments = {**assignments, **{key.replace("__", "."): value for key, value in settings.items()}}
    texts = [f"--set={key}={value}" for key, value in assignments.items() if value is not None]
    return ["train", *([str(corpus)] if corpus else []), "--out", str(run), *options, *texts]


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def train(corpus: Path | None, run: Path, *options: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run it to its end, whatever that is."""
    command = [*GPTCLI, *train_arguments(corpus, run, *options, **settings)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(run.parent / "cache"), timeout=300)


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def largest_difference(one: list[dict], other: list[dict], key: str) -> float:
    """Of the numbers under `key`, step by step, relative to the first ones; both must be whole."""
    pairs = [(a[key], b[key]) for a, b in zip(one, other, strict=True) if a[key] is not None]
    return max(abs(a - b) / abs(a) for a, b in pairs)


def settings_of(values: Mapping[str, object]) -> dict[str, object]:
    return {key.replace(".", "__"): value for key, value in values.items()}
