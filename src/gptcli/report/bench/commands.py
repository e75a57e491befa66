"""A contender's own command, run to its end with cold caches, as a person would type it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gptcli.report.bench.crew import BenchError, environment


def run_training(
    corpus: Sequence[str], options: Sequence[str], settings: Sequence[str], folder: Path, threads: int
) -> tuple[Path, float, float]:
    """`gptcli train` with these options and KEY=VALUE settings: (its run, when it was launched, how long it took).

    Raises:
        BenchError: it failed; one line with its own words.
    """
    out = folder / "run"
    command = [sys.executable, "-P", "-m", "gptcli", "train", *corpus, "--out", str(out), *options]
    command += [part for setting in settings for part in ("--set", setting)]
    return out, *run_process("gptcli train", command, folder, threads)


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
