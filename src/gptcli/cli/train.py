"""`gptcli train`."""

from __future__ import annotations

from typing import Annotated

from gptcli.cli.options import AsJson, Assignments, CacheDir, ConfigFiles, Corpus
from gptcli.cli.training_options import (
    DryRun,
    Force,
    MaxRestarts,
    Nnodes,
    Nproc,
    Out,
    Rendezvous,
    Time,
    launch_processes,
    run_option,
    train_and_print,
)


def train(
    corpus: Corpus = None,
    config: ConfigFiles = None,
    assignments: Assignments = None,
    time: Time = None,
    init_from: Annotated[
        str | None,
        run_option(metavar="MODEL", help="Start from the weights of a run, a Hugging Face directory or hf:NAME."),
    ] = None,
    out: Out = None,
    resume: Annotated[
        bool, run_option("--resume", help="Continue the run at --out, or the one named in place of CORPUS.")
    ] = False,
    dry_run: DryRun = False,
    force: Force = False,
    cache_dir: CacheDir = None,
    nproc: Nproc = None,
    nnodes: Nnodes = "1",
    rdzv: Rendezvous = None,
    max_restarts: MaxRestarts = 3,
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
    launch_processes(nproc, nnodes, rdzv, max_restarts)
    from gptcli.train.clock import parse_duration, process_began

    began, max_seconds = process_began(), None if time is None else parse_duration(time)

    from gptcli.train.request import TrainRequest

    request = TrainRequest(
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
    train_and_print(request, as_json)
