"""`gptcli verify-resume`: compares a training that is killed and resumed, step by step, with one that is not.

Both run the real command in separate processes, and are killed by SIGKILL.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from gptcli import strict_json
from gptcli.checkpoint.metrics import MetricsLog
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.console import Progress
from gptcli.errors import CheckpointError, GptcliError, UsageError
from gptcli.storage import LARGE, read_regular, sha256_file, storage_errors
from gptcli.train.fingerprints import FINGERPRINTS_NAME

TIMES = frozenset({"time", "elapsed_seconds", "stepping_seconds", "tokens_per_second", "memory_bytes"})
"""The keys of metrics.jsonl that depend on the clock and the machine, not on the training."""


@dataclass(frozen=True)
class Trial:
    """The training to compare, and the number of kills."""

    corpus: tuple[str, ...]
    config_files: tuple[str, ...]
    assignments: tuple[str, ...]
    steps: int
    kills: int
    seed: int = 0
    cache_dir: Path | None = None

    def command(self, out: Path) -> list[str]:
        """Return the command that trains in the directory `out`."""
        every = max(1, self.steps // 5)
        settings = {
            "train.max_steps": self.steps,
            "train.fingerprints": "true",
            "train.checkpoint_every_steps": every,
            "train.eval_every_steps": every,
            "train.log_every_steps": 1,
            "train.sample_every_steps": 0,
        }
        command = [sys.executable, "-m", "gptcli", "train", *self.corpus, "--resume", "--out", str(out)]
        command += [part for file in self.config_files for part in ("-c", file)]
        command += [part for text in self.assignments for part in ("--set", text)]
        command += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        return command + (["--cache-dir", str(self.cache_dir)] if self.cache_dir else [])


@dataclass
class Comparison:
    """The result; `difference` is the first one, in words, or None."""

    steps: int
    killed_after: list[int] = field(default_factory=list)
    difference: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the result for `--json`."""
        return {"steps": self.steps, "killed_after": self.killed_after, "difference": self.difference}

    def text(self) -> str:
        """Return the result as a sentence."""
        kills = ", ".join(map(str, self.killed_after))
        if self.difference:
            return f"different: {self.difference} (killed after steps {kills})"
        return (
            f"the same: batches, random numbers, weights and moments of all {self.steps} steps, their metrics and the "
            f"last checkpoint; killed after steps {kills}"
        )

    def raise_if_different(self) -> None:
        """Raise CheckpointError if the trainings differ."""
        if self.difference:
            raise CheckpointError(f"the resumed training differs: {self.difference}", "please report it")


def verify_resume(trial: Trial, out: Path | None = None) -> Comparison:
    """Train twice, once undisturbed and once killed `trial.kills` times at random steps, and compare.

    Args:
        out: the directory that keeps the two runs; None: they are not kept.

    Raises:
        UsageError: no corpus is named.
        GptcliError: a training fails; the message is that of the command.
    """
    if not (trial.corpus or trial.config_files or trial.assignments):
        raise UsageError("no corpus to train on", "name one: gptcli verify-resume book.txt")
    with kept_or_temporary(out) as folder, Progress("verify-resume", 2 + trial.kills, unit="runs") as progress:
        whole, broken = folder / "whole", folder / "broken"
        run_to_end(trial.command(whole))
        progress.update(1)
        chosen = random.Random(trial.seed).sample(range(1, trial.steps), min(trial.kills, trial.steps - 1))
        result = Comparison(trial.steps)
        for step in sorted(chosen):
            result.killed_after.append(kill_after(trial.command(broken), broken, step))
            progress.update(1)
        run_to_end(trial.command(broken))
        progress.update(1)
        result.difference = first_difference(whole, broken)
    return result


@contextlib.contextmanager
def kept_or_temporary(out: Path | None) -> Iterator[Path]:
    """Provide `out`, or a temporary directory where it is None."""
    if out is not None:
        with storage_errors(out):
            out.mkdir(parents=True, exist_ok=True)
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="gptcli-") as folder:
        yield Path(folder)


def run_to_end(command: list[str]) -> None:
    """Run the command; raise GptcliError with its message and exit code if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        failed(done.returncode, done.stderr)


def failed(code: int, stderr: str) -> NoReturn:
    """Raise the error of a command that failed."""
    lines = stderr.strip().splitlines()
    error = GptcliError((lines[-1] if lines else f"training ended with exit code {code}").removeprefix("gptcli: "))
    error.exit_code = code if code > 0 else 1
    raise error


def kill_after(command: list[str], run: Path, step: int) -> int:
    """Start the command, kill it once `step` is done, and return the last step that it made.

    Raises:
        GptcliError: the command failed before that.
    """
    with tempfile.TemporaryFile("w+") as talk:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=talk)
        try:
            while process.poll() is None and last_step(run) < step:
                time.sleep(0.005)
        finally:
            process.kill()
            process.wait()
        if process.returncode > 0:
            talk.seek(0)
            failed(process.returncode, talk.read())
    return last_step(run)


def last_step(run: Path) -> int:
    """Return the newest step in the log; 0 if there is none."""
    with contextlib.suppress(OSError, json.JSONDecodeError, IndexError):
        whole = read_regular(run / FINGERPRINTS_NAME, LARGE).rpartition(b"\n")[0]
        return int(strict_json.parse(whole.splitlines()[-1])["step"])
    return 0


LOGS = (FINGERPRINTS_NAME, "metrics.jsonl")
"""The logs with a line for each step that two equal runs share."""


def first_difference(whole: Path, broken: Path, logs: Sequence[str] = LOGS) -> str | None:
    """Return the first difference of two runs: a line of one of the logs, or a file of the last checkpoint."""
    for name in logs:
        expected, found = (MetricsLog(run / name).read() for run in (whole, broken))
        for line, again in zip(expected, found, strict=False):
            keys = [key for key in line if key not in TIMES and line[key] != again.get(key)]
            if keys:
                return f"step {line['step']}: {keys[0]} in {name}"
        if len(expected) != len(found):
            return f"{len(found)} lines instead of {len(expected)} in {name}"
    last, other = (RunDirectory.open(run).checkpoints()[-1].path for run in (whole, broken))
    for file in sorted(last.glob("*.safetensors")):
        if sha256_file(file) != sha256_file(other / file.name):
            return f"{last.name}/{file.name}"
    return None
