"""`gptcli train`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from gptcli import strict_json
from gptcli.cli.options import MOST, AsJson, Assignments, CacheDir, ConfigFiles, Corpus

run_option = partial(typer.Option, rich_help_panel="Run")
processes_option = partial(typer.Option, rich_help_panel="Processes")


def train(
    corpus: Corpus = None,
    config: ConfigFiles = None,
    assignments: Assignments = None,
    time: Annotated[
        str | None,
        run_option(
            metavar="TIME",
            help="Train the best model that this time allows (90s, 10m, 1h30m); with --resume, train this much longer.",
        ),
    ] = None,
    init_from: Annotated[
        str | None,
        run_option(metavar="MODEL", help="Start from the weights of a run, a Hugging Face directory or hf:NAME."),
    ] = None,
    out: Annotated[
        Path | None, run_option(help="Write the run to this directory (default: runs/ and the corpus's name).")
    ] = None,
    resume: Annotated[
        bool, run_option("--resume", help="Continue the run at --out, or the one named in place of CORPUS.")
    ] = False,
    dry_run: Annotated[bool, run_option("--dry-run", help="Show what would be trained, and exit.")] = False,
    force: Annotated[
        bool, run_option("--force", help="Train even if the estimate says that the memory is too small.")
    ] = False,
    cache_dir: CacheDir = None,
    nproc: Annotated[
        int | None,
        processes_option(min=1, max=10_000, help="Train with this many processes on this machine: one for each GPU."),
    ] = None,
    nnodes: Annotated[
        str,
        processes_option(
            metavar="M", help="Train on this many machines (or MIN:MAX of them); run the same command on each."
        ),
    ] = "1",
    rdzv: Annotated[
        str | None,
        processes_option(metavar="HOST:PORT", help="Connect the machines at this one of them; the same on all."),
    ] = None,
    max_restarts: Annotated[
        int, processes_option(min=0, max=MOST, help="Restart the processes at most this often when one is lost.")
    ] = 3,
    as_json: AsJson = False,
) -> None:
    """Train a GPT on a corpus.

    Everything but the corpus is optional: what is not set is chosen by the size of the corpus and the device. With
    --nproc, several processes share the work as [parallel] says; `torchrun -m gptcli train` does the same.

    Examples:
        gptcli train book.txt
        gptcli train book.txt --time 10m --out runs/book
        gptcli train book.txt -c gpt2-124m --set optim.lr=6e-4
        gptcli train --resume --out runs/book
    """
    if nproc is not None:
        from gptcli.parallel.launch import Launch, arguments_of_ranks, launch

        options = ("--nproc", "--nnodes", "--rdzv", "--max-restarts")
        code = launch(Launch(nproc, nnodes, rdzv, max_restarts), arguments_of_ranks(sys.argv[1:], options))
        raise typer.Exit(code)
    if rdzv is not None or nnodes != "1":
        from gptcli.errors import UsageError

        raise UsageError(
            "--nnodes and --rdzv need several processes", "add --nproc N, the number of processes on each machine"
        )
    from gptcli.train.clock import parse_duration, process_began

    began, max_seconds = process_began(), None if time is None else parse_duration(time)

    from gptcli.train.request import TrainRequest
    from gptcli.train.run import train

    summary = train(
        TrainRequest(
            corpus=tuple(corpus or ()),
            config_files=tuple(config or ()),
            assignments=tuple(assignments or ()),
            out=out,
            resume=resume,
            dry_run=dry_run,
            force=force,
            cache_dir=cache_dir,
            init_from=init_from,
            max_seconds=max_seconds,
            began=began,
        )
    )
    if as_json:
        print(strict_json.dumps(summary))
