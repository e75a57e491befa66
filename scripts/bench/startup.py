"""`startup`: seconds until the help, and until the first character of generated text."""

from __future__ import annotations

import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gptcli.console import Progress
from gptcli.interop.huggingface import write_huggingface
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model
from gptcli.report.bench.comparison import alternate, spread
from gptcli.report.bench.options import BenchOptions
from gptcli.report.bench.report import Outcome
from gptcli.report.bench.tables import Table, figure
from gptcli.report.bench.workers import BenchError, last_line
from gptcli.tokenizer.config import CharTokenizerConfig
from gptcli.tokenizer.train import build_tokenizer

PYTHON = (sys.executable, "-P")
GPTCLI = (*PYTHON, "-m", "gptcli")
IMPORT, FIRST = "python -c 'import torch'", "first token of gptcli generate, tiny model"


def measure(options: BenchOptions) -> Outcome:
    """Run every command once a round, in turn, after a round that is not counted (it fills the disk's cache).

    Raises:
        BenchError: a command failed.
    """
    with tempfile.TemporaryDirectory(prefix="gptcli-bench-") as scratch:
        write_small_model(Path(scratch))
        generate = (*GPTCLI, "generate", scratch, "abc", "--temperature", "0", "--max-new-tokens", "8")
        commands: dict[str, Callable[[], float]] = {
            "python -c pass": partial(seconds_to_end, (*PYTHON, "-c", "pass")),
            "gptcli --help": partial(seconds_to_end, (*GPTCLI, "--help")),
            IMPORT: partial(seconds_to_end, (*PYTHON, "-c", "import torch")),
            FIRST: partial(seconds_to_first_byte, (*generate, "--device", options.device)),
        }
        with Progress("startup", options.rounds, unit="rounds") as progress:
            alternate(commands, 1)
            measured = alternate(commands, options.rounds, lambda _: progress.update())
    waits = [first - imported for first, imported in zip(measured[FIRST], measured[IMPORT], strict=True)]
    results = {
        "seconds": {name: spread(taken).report() for name, taken in measured.items()},
        "first_token_after_torch": spread(waits).report(),
    }
    return Outcome("startup", results, tables(results))


def seconds_to_end(command: Sequence[str]) -> float:
    """Return the wall seconds of a command.

    Raises:
        BenchError: it failed.
    """
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise failure(command, done.stderr)
    return seconds


def seconds_to_first_byte(command: Sequence[str]) -> float:
    """Return the seconds until a command has written the first byte to stdout.

    Raises:
        BenchError: it failed, or wrote nothing.
    """
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
        first = process.stdout.read(1)
        seconds = time.perf_counter() - began
        _, errors = process.communicate()
    if process.returncode or not first:
        raise failure(command, errors.decode(errors="replace"))
    return seconds


def failure(command: Sequence[str], stderr: str) -> BenchError:
    """Return the error of a command, with its last line on stderr."""
    return BenchError(f"{' '.join(command[1:4])} failed: {last_line(stderr) or 'it printed nothing'}")


def write_small_model(directory: Path) -> None:
    """Write a Hugging Face directory with a model that loads at once and whose first token is a letter."""
    letters = build_tokenizer(CharTokenizerConfig(), lambda: iter([string.ascii_lowercase]))
    model = build_model(ModelConfig(vocab_size=letters.vocab_size, n_layer=1, n_head=2, n_embd=16, context_length=32))
    with torch.no_grad():
        model.embedding.weight[len(string.ascii_lowercase) :] = 0  # ids other than letters: a logit of 0 never wins
    write_huggingface(model, letters, directory)


def tables(results: dict[str, Any]) -> list[Table]:
    """Return the table of the results."""
    rows = [
        (name, *(figure(seconds[which], "s") for which in ("median", "low", "high")))
        for name, seconds in results["seconds"].items()
    ]
    beyond = results["first_token_after_torch"]["median"]
    note = f"The first token comes {figure(beyond, 's')} after torch alone could have been imported."
    return [Table("Start-up", ("", "median", "lowest", "highest"), rows, [note])]
