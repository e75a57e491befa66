"""The options that `gptcli train` and `gptcli finetune` share, and the start of the processes that they ask for."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptcli.cli.options import MOST

if TYPE_CHECKING:
    from gptcli.train.request import TrainRequest

run_option = partial(typer.Option, rich_help_panel="Run")
processes_option = partial(typer.Option, rich_help_panel="Processes")
LAUNCHER_OPTIONS = ("--nproc", "--nnodes", "--rdzv", "--max-restarts")
"""The options of the launcher, which its processes do not get."""

Time = Annotated[
    str | None,
    run_option(
        metavar="TIME",
        help="Train the best model that this time allows (90s, 10m, 1h30m); with --resume, train this much longer.",
    ),
]
Out = Annotated[
    Path | None, run_option(help="Write the run to this directory (default: runs/ and the name of the data).")
]
DryRun = Annotated[bool, run_option("--dry-run", help="Show what would be trained, and exit.")]
Force = Annotated[bool, run_option("--force", help="Train even if the estimate says that the memory is too small.")]
Nproc = Annotated[
    int | None,
    processes_option(min=1, max=10_000, help="Train with this many processes on this machine: one for each GPU."),
]
Nnodes = Annotated[
    str,
    processes_option(
        metavar="M", help="Train on this many machines (or MIN:MAX of them); run the same command on each."
    ),
]
Rendezvous = Annotated[
    str | None,
    processes_option("--rdzv", metavar="HOST:PORT", help="Connect the machines at this one of them; the same on all."),
]
MaxRestarts = Annotated[
    int, processes_option(min=0, max=MOST, help="Restart the processes at most this often when one is lost.")
]


def launch_processes(nproc: int | None, nnodes: str, rdzv: str | None, max_restarts: int) -> None:
    """Run the command in so many processes and exit with their code; return if it is to run in this process.

    Raises:
        UsageError: several machines are named, but no number of processes.
    """
    if nproc is not None:
        from gptcli.parallel.launch import Launch, arguments_of_ranks, launch

        code = launch(Launch(nproc, nnodes, rdzv, max_restarts), arguments_of_ranks(sys.argv[1:], LAUNCHER_OPTIONS))
        raise typer.Exit(code)
    if rdzv is not None or nnodes != "1":
        from gptcli.errors import UsageError

        raise UsageError(
            "--nnodes and --rdzv need several processes", "add --nproc N, the number of processes on each machine"
        )


def train_and_print(request: TrainRequest, as_json: bool) -> None:
    """Train as requested, and print the summary as JSON if that is wanted."""
    from gptcli import strict_json
    from gptcli.train.run import train

    summary = train(request)
    if as_json:
        print(strict_json.dumps(summary))
