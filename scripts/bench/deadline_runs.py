"""One run to a deadline, measured in bits per byte: gptcli, nanoGPT or xz.

gptcli gets the deadline as `--time`. nanoGPT has no such option, so its number of iterations is chosen such that the
whole command ends at the deadline, by the times of a short trial, and once more if that was far too few. xz takes as
long as it needs.
"""

from __future__ import annotations

import json
import lzma
import math
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.commands import run_training
from bench.nanogpt_command import Measured, ScriptRun, run_script
from bench.split_text import SPLIT_SETTINGS
from gptcli.report.bench.workers import BenchError

MEASUREMENTS = 5
"""Checkpoints of a run of nanoGPT, the last of them at its end."""
TRIAL_ITERATIONS = 100
EARLY = 0.9
"""A run that ends before this part of its time was planned by a trial on a busier machine."""
BRIEF_EVALUATION = "--eval_iters=1"
"""The script's own estimate of its loss is not used, so it should take little time from the training."""
WARMUP_ITERATIONS, WARMUP_PART = 100, 10
"""The recipe's warm-up, and its longest part of a short run: one in so many iterations."""
LARGEST_DICTIONARY = 1536 << 20
"""Bytes; xz's own limit."""


@dataclass(frozen=True)
class Finish:
    """The result of one run of a contender."""

    seed: int
    bits_per_byte: float
    """Over the whole validation split."""
    wall_seconds: float
    """From the command to its end; for nanoGPT without measuring its checkpoints on the whole split."""
    facts: dict[str, Any]
    """What was chosen, for JSON."""

    def report(self) -> dict[str, Any]:
        """Return the values for JSON."""
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
    """Run `gptcli train CORPUS --time ...` with no other setting than the split.

    Raises:
        BenchError: it failed; the message is its own.
    """
    settings = (*SPLIT_SETTINGS, f"device={device}", f"seed={seed}")
    out, _, wall = run_training([corpus], ["--time", f"{seconds:.10g}s"], settings, folder, threads)
    summary = json.loads((out / "summary.json").read_text())
    facts = {"chosen": chosen(tomllib.loads((out / "run.toml").read_text()), summary["parameters"])}
    facts |= {name: summary[name] for name in ("steps", "tokens", "parameters", "val_part")}
    return Finish(seed, summary["val_bits_per_byte"], wall, facts)


def chosen(config: dict[str, Any], parameters: int) -> str:
    """Describe a run's tokenizer and shape in a few words: `bpe of 512, 1 x 64, context 128, 0.12 M weights`."""
    model = config["model"]
    return (
        f"{config['data']['tokenizer']['name']} of {model['vocab_size']:,}, {model['n_layer']} x {model['n_embd']}, "
        f"context {model['context_length']:,}, {parameters / 1e6:.2g} M weights"
    )


def try_out(script: Script, folder: Path) -> ScriptRun:
    """Run a few iterations with an evaluation and a checkpoint at their end, to measure the time of each.

    Raises:
        BenchError: the script failed; the message is its own.
    """
    short = (f"--max_iters={TRIAL_ITERATIONS}", f"--eval_interval={TRIAL_ITERATIONS}", BRIEF_EVALUATION)
    return script.run(short, 0, folder, measured="none")


def iterations_until(seconds: float, trial: ScriptRun) -> int:
    """Return the number of iterations that the command has time for, with start, evaluations and checkpoints.

    It is a multiple of MEASUREMENTS, so that the last checkpoint is that of the last iteration. The script runs one
    iteration more than its option says, and evaluates before the first one too.

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
    """Return the arguments that end a recipe after so many iterations.

    The learning rate decays until then, and warms up in a tenth of them at most, unless the recipe sets its warm-up.
    """
    warmup = min(WARMUP_ITERATIONS, iterations // WARMUP_PART)
    is_set = any(argument.startswith("--warmup_iters=") for argument in arguments)
    return (
        f"--max_iters={iterations}",
        f"--lr_decay_iters={iterations}",
        f"--eval_interval={iterations // MEASUREMENTS}",
        BRIEF_EVALUATION,
        *(() if is_set else (f"--warmup_iters={warmup}",)),
    )


def run_nanogpt(
    script: Script, trial: ScriptRun, tokens_per_byte: float, seconds: float, seed: int, folder: Path
) -> Finish:
    """Run the script until the deadline; the result is the lowest loss of its checkpoints.

    `tokens_per_byte` is that of the validation split. A run that ends EARLY is repeated, planned by its own times.

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
    """Return the bits that a byte of `val` adds to the xz-compressed `train`, with a dictionary that holds both."""
    dictionary = min(max(len(train) + len(val), 4096), LARGEST_DICTIONARY)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}]
    both, alone = (len(lzma.compress(content, filters=filters)) for content in (train + val, train))
    return 8 * (both - alone) / len(val)
