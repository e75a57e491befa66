"""What a program knows of a text when its time is over, in bits per byte: ours, nanoGPT and xz, one run each.

Ours is told the deadline. nanoGPT has no notion of time, so its iterations are chosen such that the whole command ends
at the deadline, by what a short trial has shown, and once more if that was far too few. xz takes as long as it takes.
"""

from __future__ import annotations

import json
import lzma
import math
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptcli.report.bench.commands import run_training
from gptcli.report.bench.crew import BenchError
from gptcli.report.bench.nanogpt_command import Measured, ScriptRun, run_script
from gptcli.report.bench.split_text import SPLIT_SETTINGS

MEASUREMENTS = 5
"""Checkpoints of a run of nanoGPT, the last of them at its end."""
TRIAL_ITERATIONS = 100
EARLY = 0.9
"""A run that ends before so much of its time is over was planned by a trial on a busier machine."""
BRIEF_EVALUATION = "--eval_iters=1"
"""The script's own estimate of its loss is not used, so it shall take no time from the training."""
WARMUP_ITERATIONS, WARMUP_PART = 100, 10
"""The recipe's warm-up, and the part of a short run that it may take at most: one in so many iterations."""
LARGEST_DICTIONARY = 1536 << 20
"""Bytes; xz's own limit."""


@dataclass(frozen=True)
class Finish:
    """Where one run of a contender has come."""

    seed: int
    bits_per_byte: float
    """Over the whole validation split."""
    wall_seconds: float
    """From the command to its end; of nanoGPT without the measuring of its checkpoints on the whole split."""
    facts: dict[str, Any]
    """What was chosen or told, as JSON can write it."""

    def report(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Script:
    """nanoGPT on one data set in its own form."""

    checkout: str
    dataset: Path
    arguments: tuple[str, ...]
    threads: int
    device: str

    def run(self, more: tuple[str, ...], seed: int, folder: Path, *, measured: Measured = "lowest") -> ScriptRun:
        """Run it with `more` arguments; see `run_script`."""
        given = (*self.arguments, *more)
        threads, device = self.threads, self.device
        return run_script(
            self.checkout, self.dataset, given, seed, folder, threads=threads, device=device, measured=measured
        )


def run_ours(corpus: str, seconds: float, seed: int, folder: Path, *, threads: int, device: str) -> Finish:
    """`gptcli train CORPUS --time ...`, with nothing else told than where to cut.

    Raises:
        BenchError: it failed; one line with its own words.
    """
    settings = (*SPLIT_SETTINGS, f"device={device}", f"seed={seed}")
    out, _, wall = run_training([corpus], ["--time", f"{seconds:.10g}s"], settings, folder, threads)
    summary = json.loads((out / "summary.json").read_text())
    facts = {"chosen": chosen(tomllib.loads((out / "run.toml").read_text()), summary["parameters"])}
    facts |= {name: summary[name] for name in ("steps", "tokens", "parameters", "val_part")}
    return Finish(seed, summary["val_bits_per_byte"], wall, facts)


def chosen(config: dict[str, Any], parameters: int) -> str:
    """A run's tokenizer and shape in a few words: `bpe of 512, 1 x 64, context 128, 0.12 M weights`."""
    model = config["model"]
    return (
        f"{config['data']['tokenizer']['name']} of {model['vocab_size']:,}, {model['n_layer']} x {model['n_embd']}, "
        f"context {model['context_length']:,}, {parameters / 1e6:.2g} M weights"
    )


def try_out(script: Script, folder: Path) -> ScriptRun:
    """A few iterations with an evaluation and a checkpoint at their end, which tell how long each takes.

    Raises:
        BenchError: the script failed; one line with its own words.
    """
    short = (f"--max_iters={TRIAL_ITERATIONS}", f"--eval_interval={TRIAL_ITERATIONS}", BRIEF_EVALUATION)
    return script.run(short, 0, folder, measured="none")


def iterations_until(seconds: float, trial: ScriptRun) -> int:
    """How many iterations the command has time for, with its start, its evaluations and its checkpoints.

    A multiple of MEASUREMENTS, so that the last checkpoint is that of the last iteration. The script goes one iteration
    beyond what it is told, and evaluates before the first one too.

    Raises:
        BenchError: the time is too short for a run.
    """
    (first, first_seconds), (last, last_seconds) = trial.marks[0], trial.marks[-1]
    step = (last_seconds - first_seconds) / (last - first)
    before = trial.startup_seconds + trial.pauses[0] + first_seconds - first * step
    checkpoints = len(trial.pauses) // 2  # an evaluation and a saving each, after the first evaluation
    left = seconds - before - MEASUREMENTS * sum(trial.pauses[1:]) / checkpoints
    count = int(left / step - 1) // MEASUREMENTS * MEASUREMENTS
    if left <= 0 or count <= 0:
        raise BenchError(f"nanoGPT has no time for {MEASUREMENTS} iterations in {seconds:g} s")
    return count


def schedule_arguments(iterations: int, arguments: tuple[str, ...]) -> tuple[str, ...]:
    """What makes a recipe end after so many iterations: its rate decays until then, and warms up in a tenth of them at
    most, unless the recipe itself says how long.
    """
    warmup = min(WARMUP_ITERATIONS, iterations // WARMUP_PART)
    told = any(argument.startswith("--warmup_iters=") for argument in arguments)
    return (
        f"--max_iters={iterations}",
        f"--lr_decay_iters={iterations}",
        f"--eval_interval={iterations // MEASUREMENTS}",
        BRIEF_EVALUATION,
        *(() if told else (f"--warmup_iters={warmup}",)),
    )


def run_nanogpt(
    script: Script, trial: ScriptRun, tokens_per_byte: float, seconds: float, seed: int, folder: Path
) -> Finish:
    """The script until the deadline; the lowest loss of its checkpoints. Tokens per byte are the validation split's.

    A run that ends EARLY is done once more, planned by what it has shown itself.

    Raises:
        BenchError: it failed, or the time is too short for it.
    """

    def train_until(seen: ScriptRun, scratch: Path) -> tuple[tuple[str, ...], ScriptRun]:
        scratch.mkdir()
        schedule = schedule_arguments(iterations_until(seconds, seen), script.arguments)
        return (*script.arguments, *schedule), script.run(schedule, seed, scratch)

    arguments, done = train_until(trial, folder / "first")
    if done.wall_seconds < EARLY * seconds:
        arguments, done = train_until(done, folder / "second")
    lowest = min(done.points, key=lambda point: point.loss)
    bits = lowest.loss / math.log(2) * tokens_per_byte
    facts = {"arguments": " ".join(arguments), "iterations": done.points[-1].step, "lowest_at": lowest.step}
    facts |= {"tokens_per_byte": tokens_per_byte, "points": [list(point) for point in done.points]}
    return Finish(seed, bits, done.wall_seconds, facts)


def xz_bits_per_byte(train: bytes, val: bytes) -> float:
    """Bits that a byte of `val` adds to what xz makes of `train`, with a dictionary that holds both."""
    dictionary = min(max(len(train) + len(val), 4096), LARGEST_DICTIONARY)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}]
    both, alone = (len(lzma.compress(content, filters=filters)) for content in (train + val, train))
    return 8 * (both - alone) / len(val)
