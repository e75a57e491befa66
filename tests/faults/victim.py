"""The training that is attacked: a tiny model on a tiny corpus, saved every few steps, every step fingerprinted."""

from __future__ import annotations

import contextlib
from pathlib import Path

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.storage import TEMPORARY_MARK

INTERVAL = 5
"""Steps between two checkpoints."""
STEPS = 150
SETTINGS = {
    "model.n_layer": 1,
    "model.n_embd": 32,
    "model.n_head": 2,
    "model.context_length": 16,
    "model.dropout": 0.1,
    "data.tokenizer.name": "char",
    "train.max_steps": STEPS,
    "train.tokens_per_step": 128,
    "train.batch_size": 4,
    "train.eval_every_steps": 10,
    "train.eval_tokens": 256,
    "train.checkpoint_every_steps": INTERVAL,
    "train.log_every_steps": 1,
    "train.sample_every_steps": 0,
    "train.fingerprints": "true",
    "device": "cpu",
}


def make_corpus(folder: Path) -> Path:
    path = folder / "corpus.txt"
    path.write_text("".join(f"line {n}: {n * n} and {n % 7} more.\n" for n in range(400)))
    return path


def train_command(corpus: Path, run: Path, **settings: object) -> list[str]:
    """Train or go on; `settings` with __ for the dots of a key, None takes one away."""
    given = SETTINGS | {key.replace("__", "."): value for key, value in settings.items()}
    return [
        "train",
        str(corpus),
        "--resume",
        "--out",
        str(run),
        *(f"--set={key}={value}" for key, value in given.items() if value is not None),
    ]


def newest_good(run: Path) -> int:
    """The step of the newest checkpoint that verifies; 0 where there is none."""
    good = RunDirectory(run).last_good()
    return good.step if good else 0


def being_saved(run: Path) -> list[str]:
    """Names of checkpoints that are half-written."""
    with contextlib.suppress(FileNotFoundError):
        return [path.name for path in (run / "checkpoints").iterdir() if TEMPORARY_MARK in path.name]
    return []
