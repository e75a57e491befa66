"""One training run from its command to its curve: ours by `gptcli train`, nanoGPT's by its own train.py.

Both are processes of their own with caches of their own, so that every start is a cold one.
"""

from __future__ import annotations

import json
import pickle
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from gptcli.checkpoint.metrics import MetricsLog
from gptcli.data.config import DataConfig
from gptcli.data.prepare import prepare_data, scan_corpus
from gptcli.data.shards import TokenShards
from gptcli.report.bench.crew import BenchError, environment
from gptcli.report.bench.curves import Point, Run
from gptcli.tokenizer.config import CharTokenizerConfig

CORPUS_SETTINGS = ("data.tokenizer.name=char", "data.split=tail", "data.val_fraction=0.1")
"""The corpus as nanoGPT cuts it: characters, the last tenth to validate."""
WHOLE_SPLIT = 10**12
README_RECIPE = {
    "cpu": (
        "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=1 "
        "--block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 "
        "--dropout=0.0"
    ),
    "cuda": "config/train_shakespeare_char.py",
}
"""What nanoGPT's README says to type for Tiny Shakespeare, on a CPU (or what is no CUDA device) and on a GPU."""


@dataclass(frozen=True)
class Course:
    """What every run of a bench has in common."""

    corpus: tuple[str, ...]
    eval_every: int
    """Steps between two measurements on the whole validation split, where a contender does not say otherwise."""
    threads: int
    device: str


def run_ours(course: Course, configs: Sequence[str], assignments: Sequence[str], seed: int, folder: Path) -> Run:
    """`gptcli train` with these settings, evaluated on the whole split.

    Raises:
        BenchError: it failed; one line with its own words.
    """
    settings = [
        f"train.eval_every_steps={course.eval_every}",
        *assignments,
        *CORPUS_SETTINGS,
        f"train.eval_tokens={WHOLE_SPLIT}",
        "train.log_every_steps=1",
        "train.sample_every_steps=0",
        f"device={course.device}",
        f"seed={seed}",
    ]
    out = folder / "run"
    command = [sys.executable, "-P", "-m", "gptcli", "train", *course.corpus, "--out", str(out)]
    command += [part for config in configs for part in ("--config", config)]
    command += [part for setting in settings for part in ("--set", setting)]
    launched, wall = run_process("gptcli train", command, folder, course.threads)
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


def run_nanogpt(course: Course, checkout: str, arguments: str, seed: int, folder: Path) -> Run:
    """The checkout's train.py, in a copy, on the same characters and split.

    Raises:
        BenchError: it failed; one line with its own words.
    """
    copy = folder / "checkout"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git", "*.bin", "*.pt", "*.ipynb", "assets"))
    data = copy / "data" / "bench"
    write_dataset(course.corpus, data, folder / "cache")
    interval = [] if "--eval_interval=" in arguments else [f"--eval_interval={course.eval_every}"]
    given = [
        *arguments.split(),
        *interval,
        "--dataset=bench",
        "--out_dir=out-bench",
        "--always_save_checkpoint=True",
        f"--device={course.device}",
    ]
    spec, out = folder / "spec.json", folder / "curve.json"
    described = {"arguments": given, "seed": seed, "val": str(data / "val.bin"), "device": course.device}
    spec.write_text(json.dumps(described | {"out": str(out)}))
    command = [sys.executable, "-P", "-m", "gptcli.report.bench.nanogpt_run", str(spec)]
    launched, _ = run_process("nanoGPT's train.py", command, folder, course.threads, cwd=copy)
    curve = json.loads(out.read_text())
    return Run(
        seed,
        tuple(Point(*point) for point in curve["points"]),
        startup_seconds=curve["ready_time"] - launched,
        first_step_seconds=curve["marks"][0][1],
        median_step_seconds=median_step(curve["marks"]),
        wall_seconds=curve["end_time"] - launched,
    )


def write_dataset(corpus: Sequence[str], folder: Path, cache_dir: Path) -> None:
    """train.bin, val.bin (uint16) and meta.pkl, as nanoGPT's data/shakespeare_char has them, of any corpus.

    Cut and numbered as ours are; the end-of-text token before the first document is left out, so that one text gives
    characters alone.
    """
    config = DataConfig(corpus=tuple(corpus), tokenizer=CharTokenizerConfig(), split="tail", val_fraction=0.1)
    data = prepare_data(scan_corpus(corpus, config, cache_dir), config, cache_dir)
    folder.mkdir(parents=True)
    largest = 0
    for name, shards in (("train", data.train), ("val", data.val)):
        ids = characters(shards)
        largest = max(largest, int(ids.max()))
        ids.astype(np.uint16).tofile(folder / f"{name}.bin")
    (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": largest + 1}))


def characters(shards: TokenShards) -> np.ndarray:
    """The tokens of a split without the one that stands before its first document."""
    return shards.read(1, len(shards))


def median_step(marks: Sequence[tuple[int, float]]) -> float:
    """Seconds of the median step after the first, from (steps done, seconds) pairs; of a single pair, its own."""
    taken = [(later - sooner) / (last - first) for (first, sooner), (last, later) in pairwise(marks)]
    return statistics.median(taken) if taken else marks[0][1] / marks[0][0]


def run_process(
    name: str, command: Sequence[str], folder: Path, threads: int, cwd: Path | None = None
) -> tuple[float, float]:
    """Run a command to its end: (when it was launched, by the calendar's clock; how many seconds it took).

    Raises:
        BenchError: it failed; with the last line that it printed.
    """
    log = folder / "output.txt"
    launched = time.time()
    with log.open("w") as output:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd,
            env=cold_environment(folder, threads),
        )
    if done.returncode:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise BenchError(f"{name} failed: {lines[-1] if lines else f'status {done.returncode}'}")
    return launched, time.time() - launched


def cold_environment(folder: Path, threads: int) -> dict[str, str]:
    """A contender's environment with every cache inside `folder`: of tokens, and of torch's compiler."""
    caches = {"XDG_CACHE_HOME": str(folder / "cache"), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    return environment(threads) | caches
