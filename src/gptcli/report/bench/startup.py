"""`gptcli bench startup`: how long a person waits for help, and for the first character of generated text."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gptcli.console import Progress
from gptcli.report.bench.contest import alternate, spread
from gptcli.report.bench.crew import BenchError
from gptcli.report.bench.models import write_small_model
from gptcli.report.bench.publish import Outcome
from gptcli.report.bench.setting import Setting
from gptcli.report.bench.tables import Table, figure

PYTHON = (sys.executable, "-P")
GPTCLI = (*PYTHON, "-m", "gptcli")
IMPORT, FIRST = "python -c 'import torch'", "first token of gptcli generate, tiny model"


def measure(setting: Setting) -> Outcome:
    """Every command once a round, in turn, after a round that does not count (it fills the disk's cache).

    Raises:
        BenchError: a command failed.
    """
    with tempfile.TemporaryDirectory(prefix="gptcli-bench-") as scratch:
        write_small_model(Path(scratch))
        generate = (*GPTCLI, "generate", scratch, "abc", "--temperature", "0", "--max-new-tokens", "8")
        players: dict[str, Callable[[], float]] = {
            "python -c pass": partial(seconds_to_end, (*PYTHON, "-c", "pass")),
            "gptcli --help": partial(seconds_to_end, (*GPTCLI, "--help")),
            IMPORT: partial(seconds_to_end, (*PYTHON, "-c", "import torch")),
            FIRST: partial(seconds_to_first_byte, (*generate, "--device", setting.device)),
        }
        with Progress("startup", setting.rounds, unit="rounds") as progress:
            alternate(players, 1)
            played = alternate(players, setting.rounds, lambda _: progress.update())
    waits = [first - torch for first, torch in zip(played[FIRST], played[IMPORT], strict=True)]
    results = {
        "seconds": {name: spread(taken).report() for name, taken in played.items()},
        "first_token_after_torch": spread(waits).report(),
    }
    return Outcome("startup", results, tables(results))


def seconds_to_end(command: Sequence[str]) -> float:
    """Wall seconds of a command."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise failure(command, done.stderr)
    return seconds


def seconds_to_first_byte(command: Sequence[str]) -> float:
    """Seconds until a command has written the first byte to stdout."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
        first = process.stdout.read(1)
        seconds = time.perf_counter() - began
        _, errors = process.communicate()
    if process.returncode or not first:
        raise failure(command, errors.decode(errors="replace"))
    return seconds


def failure(command: Sequence[str], stderr: str) -> BenchError:
    lines = stderr.strip().splitlines()
    return BenchError(f"{' '.join(command[1:4])} failed: {lines[-1] if lines else 'it printed nothing'}")


def tables(results: dict[str, Any]) -> list[Table]:
    rows = [
        (name, *(figure(seconds[which], "s") for which in ("median", "low", "high")))
        for name, seconds in results["seconds"].items()
    ]
    beyond = results["first_token_after_torch"]["median"]
    note = f"The first token comes {figure(beyond, 's')} after torch alone could have been imported."
    return [Table("Start-up", ("", "median", "lowest", "highest"), rows, [note])]
