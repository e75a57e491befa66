"""Preferences of a toy world, a tiny base model, and the request of a training on them."""

from __future__ import annotations

from pathlib import Path

from gptcli import strict_json
from gptcli.train.request import TrainRequest
from gptcli.train.run import train
from numbered_lines import numbered_lines

NAMES, THINGS = ("Ann", "Bob", "Cid", "Dora", "Eve"), ("ball", "cup", "hat", "key", "map", "pen")
BASE = (
    "model.n_layer=2", "model.n_embd=32", "model.n_head=2", "model.context_length=192", "data.tokenizer.name=byte",
    "train.max_steps=2", "train.tokens_per_step=384", "train.batch_size=2", "train.sample_every_steps=0", "device=cpu",
)  # fmt: skip
SETTINGS = (
    "data.kind=preferences", "objective.name=dpo", "optim.name=adamw", "optim.lr=2e-3", "train.tokens_per_step=384",
    "train.batch_size=1", "train.max_steps=8", "train.eval_every_steps=4", "train.checkpoint_every_steps=4",
    "train.log_every_steps=2", "train.sample_every_steps=0", "train.precision=fp32", "device=cpu",
)  # fmt: skip


def write_preferences(path: Path) -> Path:
    """Write one preference for each name and thing."""
    rows = [
        {"prompt": f"{name} has a {thing}. What?", "chosen": f"A {thing}.", "rejected": "Sorry."}
        for name in NAMES
        for thing in THINGS
    ]
    path.write_text("".join(strict_json.dumps(row) + "\n" for row in rows))
    return path


def base_in(folder: Path) -> Path:
    """Train the base model."""
    (folder / "text.txt").write_text(numbered_lines(300))
    cache = folder / "cache"
    train(TrainRequest((str(folder / "text.txt"),), assignments=BASE, out=folder / "base", cache_dir=cache))
    return folder / "base"


def request(base: Path, out: Path, *more: str) -> TrainRequest:
    """Return the request of a training by preferences, whose cache is beside the base."""
    preferences = base.parent / "preferences.jsonl"
    return TrainRequest(
        (str(preferences),),
        assignments=(*SETTINGS, *more),
        out=out,
        init_from=str(base),
        cache_dir=base.parent / "cache",
    )
