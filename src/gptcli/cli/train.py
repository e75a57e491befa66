"""`gptcli train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gptcli import strict_json
from gptcli.cli.options import MOST, AsJson, Assignments, CacheDir, ConfigFiles, Corpus


def train(
    corpus: Corpus = None,
    config: ConfigFiles = None,
    assignments: Assignments = None,
    time: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Be done in this time (90s, 10m, 1h30m), with the best model it can buy; with --resume, so long more.",
        ),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Go on with the weights of a run, a Hugging Face directory or hf:NAME."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run directory (default: runs/ and the corpus's name).")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run at --out, or named in place of CORPUS.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen and stop.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Train even if the estimate says that the memory does not suffice.")
    ] = False,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
    nproc: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Train with so many processes on this machine: one for each GPU."),
    ] = None,
    nnodes: Annotated[
        str, typer.Option(metavar="M", help="On so many machines (or LEAST:MOST of them); run the command on each.")
    ] = "1",
    rdzv: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where the machines meet: one of them, the same on all.")
    ] = None,
    max_restarts: Annotated[
        int, typer.Option(min=0, max=MOST, help="How often to start the processes anew when one is lost.")
    ] = 3,
) -> None:
    """Train a GPT on a corpus. With nothing but a corpus, everything else is chosen by its size and the device.

    With --nproc several processes share the work as [parallel] says; torchrun -m gptcli train does as well.
    """
    if nproc is not None:
        from gptcli.parallel.launch import Launch, arguments_of_ranks, launch

        options = ("--nproc", "--nnodes", "--rdzv", "--max-restarts")
        code = launch(Launch(nproc, nnodes, rdzv, max_restarts), arguments_of_ranks(sys.argv[1:], options))
        raise typer.Exit(code)
    if rdzv is not None or nnodes != "1":
        from gptcli.errors import UsageError

        raise UsageError("--nnodes and --rdzv are for several processes", "say how many on each machine: --nproc N")
    from gptcli.train.clock import parse_duration, process_began

    began, max_seconds = process_began(), None if time is None else parse_duration(time)

    from gptcli.train.run import TrainRequest, train

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
