"""`gptcli eval`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gptcli.cli.options import MOST, MOST_TOKENS, Quantize, ReadingAssignments
from gptcli.cli.output import CommandResult, show_report


def evaluate(
    run: Annotated[str, typer.Argument(help="A run, a Hugging Face model directory, or hf:NAME.", show_default=False)],
    text: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, directories, globs, -, hf:NAME; without any, the run's own validation split.",
            show_default=False,
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_TOKENS, help="Tokens in a window (default: the model's context, at most 8,192)."),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_TOKENS, help="Tokens from one window to the next (default: half the context)."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Windows, choices or requests scored at a time.")
    ] = None,
    worst: Annotated[
        int,
        typer.Option(min=0, max=MOST, metavar="K", help="Show the K passages that the model finds most surprising."),
    ] = 0,
    checkpoint: Annotated[str, typer.Option(help="Of a run: best, last, or a step.")] = "best",
    quantize: Quantize = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    assignments: ReadingAssignments = None,
    choices: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.jsonl",
            help='Instead of a text: rows of {"prompt", "choices", "answer"} in which the model is to choose.',
        ),
    ] = None,
    shots: Annotated[
        str | None, typer.Option(metavar="FILE.jsonl", help="With --choices: where the worked examples come from.")
    ] = None,
    num_fewshot: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MOST,
            metavar="K",
            help="Worked examples before each row: of --choices the first K rows, which are then not scored.",
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...", help="Instead of a text: tasks of lm-evaluation-harness, patterns, or task files."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, max=MOST, metavar="N", help="With --tasks: so many rows of each at most.")
    ] = None,
    include_path: Annotated[
        str | None, typer.Option(metavar="DIR", help="With --tasks: a directory with task files (.yaml) of your own.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure perplexity and bits per byte, each token scored exactly once; or how it does at tasks."""
    from gptcli.evaluate import requests
    from gptcli.session import ModelRequest

    model = ModelRequest(run, checkpoint, device, quantize=quantize)
    of_texts = {"TEXT": text, "--context": context, "--stride": stride, "--worst": worst, "--set": assignments}
    of_tasks = {"--limit": limit, "--include-path": include_path}
    report: CommandResult
    if tasks is not None:
        refuse("--tasks", of_texts | {"--choices": choices, "--shots": shots})
        names = tuple(name.strip() for name in tasks.split(",") if name.strip())
        request = requests.TasksRequest(model, names, limit, num_fewshot, include_path, batch_size)
        report = requests.evaluate_tasks(request)
    elif choices is not None:
        refuse("--choices", of_texts | of_tasks)
        report = requests.evaluate_choice_file(
            requests.ChoicesRequest(model, choices, shots, num_fewshot or 0, batch_size)
        )
    else:
        from gptcli.data.reading_config import reading_settings
        from gptcli.evaluate.perplexity import PerplexityOptions

        refuse("a text", of_tasks | {"--shots": shots, "--num-fewshot": num_fewshot})
        options = PerplexityOptions(context, stride, batch_size, worst)
        reading = reading_settings(assignments or [])
        report = requests.evaluate_texts(requests.TextsRequest(model, tuple(text or ()), options, reading))
    show_report(report, as_json)


def refuse(what: str, options: dict[str, Any]) -> None:
    """Raise a UsageError if an option is given that would do nothing."""
    from gptcli.errors import UsageError

    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(f"{given[0]} has no meaning for {what}", "leave it out")
