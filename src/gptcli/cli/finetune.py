"""`gptcli finetune`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from gptcli.cli.options import AsJson, Assignments, CacheDir, ConfigFiles
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


def finetune(
    base: Annotated[
        str | None,
        typer.Argument(help="The model to fine-tune: a run, a Hugging Face model directory, or hf:NAME."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Argument(help="Conversations or prompts with answers: files, directories, globs, or hf:NAME."),
    ] = None,
    method: Annotated[
        Literal["full", "lora", "dpo"] | None,
        run_option(help="Train all weights, a low-rank adapter, or on preferred answers (default: full)."),
    ] = None,
    config: ConfigFiles = None,
    assignments: Assignments = None,
    time: Time = None,
    out: Out = None,
    resume: Annotated[
        bool, run_option("--resume", help="Continue the run at --out, or the one named in place of BASE.")
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
    """Fine-tune a model on your own examples.

    It is `gptcli train` on conversations instead of text, with the loss on the answers only, from the weights of a base
    model. Everything but the base and the examples is optional: what is not set is chosen by both and the method.

    Examples:
        gptcli finetune runs/book chats.jsonl
        gptcli finetune runs/book chats.jsonl --method lora --out runs/answers
        gptcli finetune runs/answers preferences.jsonl --method dpo
        gptcli finetune --resume --out runs/answers
    """
    launch_processes(nproc, nnodes, rdzv, max_restarts)
    from gptcli.train.clock import parse_duration, process_began

    began, max_seconds = process_began(), None if time is None else parse_duration(time)

    from gptcli.train.finetune import finetune_request
    from gptcli.train.request import TrainRequest

    request = TrainRequest(
        corpus=tuple(data or ()),
        config_files=tuple(config or ()),
        assignments=tuple(assignments or ()),
        out=out,
        resume=resume,
        dry_run=dry_run,
        force=force,
        cache_dir=cache_dir,
        max_seconds=max_seconds,
        began=began,
    )
    train_and_print(finetune_request(request, base, method), as_json)
