"""nanoGPT's own train.py as a contender: started in a copy of its checkout on a data set in its own form, and timed."""

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

from gptcli import strict_json
from gptcli.report.bench.commands import run_process
from gptcli.report.bench.crew import BenchError
from gptcli.report.bench.curves import Point, Run, median_step

README_RECIPE = {
    "cpu": (
        "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=1 "
        "--block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 "
        "--dropout=0.0"
    ),
    "cuda": "config/train_shakespeare_char.py",
}
"""What nanoGPT's README says to type for Tiny Shakespeare, on a CPU (or what is no CUDA device) and on a GPU."""
Measured = Literal["all", "lowest", "none"]
LARGEST_ID = np.iinfo(np.uint16).max
"""Its files of tokens hold 16 bits each."""


@dataclass(frozen=True)
class ScriptRun:
    """What was seen of the script from outside. Moments are the calendar's, in seconds."""

    points: tuple[Point, ...]
    """One a checkpoint; none where the checkpoints were not to be measured."""
    marks: tuple[tuple[int, float], ...]
    """(iterations done, seconds of iterations alone)."""
    pauses: tuple[float, ...]
    """Seconds of every stop between iterations: its evaluations, and the writing of its checkpoints."""
    launched: float
    ready_time: float
    """When it was ready for its first step."""
    end_time: float

    @property
    def startup_seconds(self) -> float:
        return self.ready_time - self.launched

    @property
    def wall_seconds(self) -> float:
        return self.end_time - self.launched

    def as_run(self, seed: int) -> Run:
        """Its curve."""
        return Run(
            seed,
            self.points,
            startup_seconds=self.startup_seconds,
            first_step_seconds=self.marks[0][1],
            median_step_seconds=median_step(self.marks),
            wall_seconds=self.wall_seconds,
        )


def recipe_for(device: str) -> str:
    """The README's arguments for this kind of device."""
    return README_RECIPE["cuda" if device.startswith("cuda") else "cpu"]


def write_ids(folder: Path, parts: Mapping[str, np.ndarray], vocab_size: int | None = None) -> None:
    """A data set as nanoGPT's prepare.py leave it: a file of uint16 ids for each part ("train", "val"), and meta.pkl
    with the size of the vocabulary (none: one more than the largest id).

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
    """The checkout's train.py in a copy inside `folder`, on the files of `dataset`; later arguments win.

    Args:
        measured: which of its checkpoints are measured on the whole validation split when it has ended: all, none, or
            from the last one backwards until one is worse than a later one: the lowest of a curve with one valley.

    Raises:
        BenchError: it failed; one line with its own words.
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
    asked = {"arguments": given, "seed": seed, "val": str(data / "val.bin"), "measured": measured}
    spec.write_text(strict_json.dumps({**asked, "device": device, "out": str(out)}))
    command = [sys.executable, "-P", "-m", "gptcli.report.bench.nanogpt_run", str(spec)]
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
