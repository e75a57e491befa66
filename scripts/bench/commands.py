"""A contender's command, run to its end with cold caches, as a person would type it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gptcli.report.bench.workers import BenchError, environment, last_line


def run_training(
    corpus: Sequence[str], options: Sequence[str], settings: Sequence[str], folder: Path, threads: int
) -> tuple[Path, float, float]:
    """Run `gptcli train` with these options and settings; return (its run, the time of its launch, its seconds).

    Raises:
        BenchError: it failed; the message is its own.
    """
    out = folder / "run"
    command = [sys.executable, "-P", "-m", "gptcli", "train", *corpus, "--out", str(out), *options]
    command += [part for setting in settings for part in ("--set", setting)]
    return out, *run_process("gptcli train", command, folder, threads)


def run_process(
    name: str, command: Sequence[str], folder: Path, threads: int, cwd: Path | None = None
) -> tuple[float, float]:
    """Run a command to its end; return (the time of its launch, in seconds since the epoch; its seconds).

    Raises:
        BenchError: it failed; the message is the last line that it printed.
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
        raise BenchError(f"{name} failed: {last_line(log.read_text(errors='replace')) or f'status {done.returncode}'}")
    return launched, time.time() - launched


def cold_environment(folder: Path, threads: int) -> dict[str, str]:
    """Return a contender's environment, with the caches of tokens and of torch's compiler inside `folder`."""
    caches = {"XDG_CACHE_HOME": str(folder / "cache"), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    return environment(threads) | caches
