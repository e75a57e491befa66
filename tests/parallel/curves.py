"""The same training laid over the ranks in every way, step by step beside the one of a single process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from faults.nursery import Nursery
from parallel.forked_ranks import run_training
from parallel.ranks import largest_difference, make_corpus, metrics, settings_of

LIMIT = 1e-4
"""Largest relative difference of a step's loss that counts as the same curve, in fp32."""


@dataclass(frozen=True)
class Way:
    """A strategy on so many ranks."""

    name: str
    ranks: int
    settings: Mapping[str, object] = field(default_factory=dict)


FSDP = {"parallel.strategy": "fsdp"}
WAYS = (
    Way("ddp", 2),
    Way("ddp", 4),
    Way("fsdp", 2, FSDP),
    Way("fsdp", 4, FSDP),
    Way("hsdp: 2 replicas x 2 shards", 4, {**FSDP, "parallel.replicas": 2}),
    Way("tensor", 2, {"parallel.tensor": 2}),
    Way("tensor", 4, {"parallel.tensor": 4}),
    Way("fsdp + tensor: 2 shards x 2 tensor", 4, {**FSDP, "parallel.tensor": 2}),
)


@dataclass(frozen=True)
class Curve:
    """How far a way's numbers are from those of one process, relatively, at worst of all steps."""

    way: Way
    loss: float
    val_loss: float
    grad_norm: float
    is_same_tokens: bool

    def row(self) -> str:
        same = "the same" if self.is_same_tokens else "DIFFERENT"
        return (
            f"| {self.way.name} | {self.way.ranks} | {self.loss:.1e} | {self.val_loss:.1e} | {self.grad_norm:.1e} "
            f"| {same} |"
        )


HEAD = (
    "| strategy | ranks | training loss | validation loss | gradient norm | tokens of every step |\n"
    "| --- | --- | --- | --- | --- | --- |"
)


def reference(nursery: Nursery, folder: Path, **settings: object) -> Path:
    """The run of one process."""
    run = folder / "one"
    run_training(nursery, make_corpus(folder), run, **settings)
    return run


def curve(nursery: Nursery, way: Way, one: Path, **settings: object) -> Curve:
    """Train in this way beside the run `one`, and compare all that was logged."""
    run = one.parent / f"{way.name.split()[0].rstrip(':')}-{way.ranks}-{way.settings.get('parallel.tensor', 1)}"
    own = {**settings_of(way.settings), **settings}
    run_training(nursery, one.parent / "corpus.txt", run, way.ranks, **own)
    expected, found = metrics(one), metrics(run)
    differences = (largest_difference(expected, found, key) for key in ("train_loss", "val_loss", "grad_norm"))
    return Curve(
        way, *differences, all(a["tokens_hash"] == b["tokens_hash"] for a, b in zip(expected, found, strict=True))
    )
