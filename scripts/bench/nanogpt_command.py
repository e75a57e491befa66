"""nanoGPT's own train.py as a contender: run and timed in a copy of its checkout, on a data set in its own form."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bench.commands import run_process
from bench.curves import Point, Run, median_step
from gptcli import strict_json
from gptcli.report.bench.workers import BenchError

README_RECIPE = {
    "cpu": (
        "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=1 "
        "--block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 "
        "--dropout=0.0"
    ),
    "cuda": "config/train_shakespeare_char.py",
}
"""The arguments in nanoGPT's README for Tiny Shakespeare, on a CPU (or any device but CUDA) and on a GPU."""
Measured = Literal["all", "lowest", "none"]
LARGEST_ID = np.iinfo(np.uint16).max
"""Its files of tokens have 16 bits for each."""


@dataclass(frozen=True)
class ScriptRun:
    """What was observed of the script from outside. Times of day are seconds since the epoch."""

    points: tuple[Point, ...]
    """One for each checkpoint that was measured."""
    marks: tuple[tuple[int, float], ...]
    """(iterations done, seconds of iterations alone)."""
    pauses: tuple[float, ...]
    """Seconds of every pause between iterations: its evaluations, and the writing of its checkpoints."""
    launched: float
    ready_time: float
    """Time of day at which it was ready for its first step."""
    end_time: float

    @property
    def startup_seconds(self) -> float:
        return self.ready_time - self.launched

    @property
    def wall_seconds(self) -> float:
        return self.end_time - self.launched

    def as_run(self, seed: int) -> Run:
        """Return its curve."""
        return Run(
            seed,
            self.points,
            startup_seconds=self.startup_seconds,
            first_step_seconds=self.marks[0][1],
            median_step_seconds=median_step(self.marks),
            wall_seconds=self.wall_seconds,
        )


def recipe_for(device: str) -> str:
    """Return the README's arguments for this kind of device."""
    return README_RECIPE["cuda" if device.startswith("cuda") else "cpu"]


def write_ids(folder: Path, parts: Mapping[str, np.ndarray], vocab_size: int | None = None) -> None:
    """Write a data set as nanoGPT's prepare.py does: uint16 ids of each part ("train", "val"), and meta.pkl.

    meta.pkl has the size of the vocabulary, by default one more than the largest id.

    Raises:
        BenchError: an id does not fit.
    """
    folder.mkdir(parents=True)
    largest = max(int(ids.max()) for ids in parts.values())
    if largest > LARGEST_ID:
        raise BenchError(f"nanoGPT keeps ids in 16 bits, and this vocabulary goes up to {largest:,}")
    for name, ids in parts.items():
        ids.astype(np.uint16).tofile(folder / f"{name}.bin")
    (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": vocab_size or largest + 1}))


def run_script(
    checkout: str,
    dataset: Path,
    arguments: Sequence[str],
    seed: int,
    folder: Path,
    *,
    threads: int,
    device: str,
    measured: Measured = "all",
) -> ScriptRun:
    """Run the checkout's train.py in a copy inside `folder`, on the files of `dataset`; later arguments win.

    Args:
        measured: which of its checkpoints are measured on the whole validation split after its end: all, none, or
            from the last one backwards until one is worse than a later one, which finds the lowest of a curve with
            one minimum.

    Raises:
        BenchError: it failed; the message is its own.
    """
    copy = folder / "checkout"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git", "*.bin", "*.pt", "*.ipynb", "assets"))
    data = copy / "data" / "bench"
    shutil.copytree(dataset, data)
    given = [
        *arguments,
        "--dataset=bench",
        "--out_dir=out-bench",
        "--always_save_checkpoint=True",
        f"--device={device}",
    ]
    spec, out = folder / "spec.json", folder / "curve.json"
    spec_values = {"arguments": given, "seed": seed, "val": str(data / "val.bin"), "measured": measured}
    spec.write_text(strict_json.dumps({**spec_values, "device": device, "out": str(out)}))
    command = [sys.executable, "-P", str(Path(__file__).with_name("nanogpt_run.py")), str(spec)]
    launched, _ = run_process("nanoGPT's train.py", command, folder, threads, cwd=copy)
    seen = json.loads(out.read_text())
    return ScriptRun(
        points=tuple(Point(*point) for point in seen["points"]),
        marks=tuple((step, seconds) for step, seconds in seen["marks"]),
        pauses=tuple(seen["pauses"]),
        launched=launched,
        ready_time=seen["ready_time"],
        end_time=seen["end_time"],
    )
