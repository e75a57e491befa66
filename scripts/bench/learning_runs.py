"""One training run from its command to its curve: `gptcli train`, or nanoGPT's own train.py.

Each is a process with new caches, so that every start is a cold one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.commands import run_training
from bench.curves import Point, Run, median_step
from bench.nanogpt_command import run_script, write_ids
from gptcli.checkpoint.metrics import MetricsLog
from gptcli.data.config import DataConfig
from gptcli.data.prepare import prepare_corpus, scan_corpus
from gptcli.data.shards import TokenShards
from gptcli.data.workspace import Workspace
from gptcli.tokenizer.config import CharTokenizerConfig

CORPUS_SETTINGS = ("data.tokenizer.name=char", "data.split=tail", "data.val_fraction=0.1")
"""The corpus as nanoGPT cuts it: characters, the last tenth to validate."""
WHOLE_SPLIT = 10**12


@dataclass(frozen=True)
class LearningSetup:
    """The settings that all runs share."""

    corpus: tuple[str, ...]
    eval_every: int
    """Steps between two measurements on the whole validation split, unless a contender sets them itself."""
    threads: int
    device: str


def run_ours(setup: LearningSetup, configs: Sequence[str], assignments: Sequence[str], seed: int, folder: Path) -> Run:
    """Run `gptcli train` with these settings, evaluated on the whole split.

    Raises:
        BenchError: it failed; the message is its own.
    """
    settings = [
        f"train.eval_every_steps={setup.eval_every}",
        *assignments,
        *CORPUS_SETTINGS,
        f"train.eval_tokens={WHOLE_SPLIT}",
        "train.log_every_steps=1",
        "train.sample_every_steps=0",
        f"device={setup.device}",
        f"seed={seed}",
    ]
    options = [part for config in configs for part in ("--config", config)]
    out, launched, wall = run_training(setup.corpus, options, settings, folder, setup.threads)
    lines = MetricsLog(out / "metrics.jsonl").read()
    marks = [(line["step"], line["stepping_seconds"]) for line in lines]
    return Run(
        seed,
        tuple(Point(line["step"], line["stepping_seconds"], line["val_loss"]) for line in lines if line["val_loss"]),
        startup_seconds=lines[0]["time"] - lines[0]["elapsed_seconds"] - launched,
        first_step_seconds=marks[0][1],
        median_step_seconds=median_step(marks),
        wall_seconds=wall,
    )


def run_nanogpt(setup: LearningSetup, checkout: str, arguments: str, seed: int, folder: Path) -> Run:
    """Run the checkout's train.py, in a copy, on the same characters and split.

    Raises:
        BenchError: it failed; the message is its own.
    """
    write_dataset(setup.corpus, folder / "dataset", folder / "cache")
    interval = [] if "--eval_interval=" in arguments else [f"--eval_interval={setup.eval_every}"]
    given = [*arguments.split(), *interval]
    done = run_script(checkout, folder / "dataset", given, seed, folder, threads=setup.threads, device=setup.device)
    return done.as_run(seed)


def write_dataset(corpus: Sequence[str], folder: Path, cache_dir: Path) -> None:
    """Write train.bin, val.bin (uint16) and meta.pkl, as nanoGPT's data/shakespeare_char has them, for any corpus.

    The split and the ids are gptcli's, without the end-of-text token before the first document, so that one text gives
    characters alone.
    """
    config = DataConfig(corpus=tuple(corpus), tokenizer=CharTokenizerConfig(), split="tail", val_fraction=0.1)
    workspace = Workspace(config, cache_dir)
    data = prepare_corpus(scan_corpus(corpus, workspace), workspace)
    write_ids(folder, {"train": characters(data.train), "val": characters(data.val)})


def characters(shards: TokenShards) -> np.ndarray:
    """Return the tokens of a split without the one before its first document."""
    return shards.read(1, len(shards))
