"""`gptcli eval`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gptcli import strict_json
from gptcli.cli.options import MOST, MOST_TOKENS, Quantize, ReadingAssignments
from gptcli.console import show


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
    model = {"model": run, "batch_size": batch_size, "checkpoint": checkpoint, "quantize": quantize, "device": device}
    of_texts = {"TEXT": text, "--context": context, "--stride": stride, "--worst": worst, "--set": assignments}
    of_tasks = {"--limit": limit, "--include-path": include_path}
    if tasks is not None:
        refuse("--tasks", of_texts | {"--choices": choices, "--shots": shots})
        printed = run_tasks(model, tasks, limit, num_fewshot, include_path, as_json)
    elif choices is not None:
        refuse("--choices", of_texts | of_tasks)
        printed = choose(model, choices, shots, num_fewshot, as_json)
    else:
        refuse("a text", of_tasks | {"--shots": shots, "--num-fewshot": num_fewshot})
        printed = read(model, text or [], context, stride, worst, assignments or [], as_json)
    show(printed)


def refuse(what: str, options: dict[str, Any]) -> None:
    """Options that would do nothing are a mistake of the user's."""
    from gptcli.errors import UsageError

    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(f"{given[0]} has no meaning for {what}", "leave it out")


def read(
    model: dict[str, Any],
    text: list[str],
    context: int | None,
    stride: int | None,
    worst: int,
    assignments: list[str],
    as_json: bool,
) -> str:
    """The perplexity of texts, to be printed."""
    from gptcli.data.reading_config import reading_settings
    from gptcli.evaluate import report
    from gptcli.evaluate.requests import EvalRequest
    from gptcli.evaluate.requests import evaluate as evaluate_request

    evaluation, source = evaluate_request(
        EvalRequest(
            **model,
            texts=tuple(text),
            context=context,
            stride=stride,
            worst=worst,
            reading=reading_settings(assignments),
        )
    )
    return strict_json.dumps(report.as_json(evaluation, source)) if as_json else report.as_text(evaluation, source)


def choose(model: dict[str, Any], file: str, shots: str | None, num_fewshot: int | None, as_json: bool) -> str:
    """How the model chooses, to be printed."""
    from gptcli.evaluate import choice_report as report
    from gptcli.evaluate.requests import ChoicesRequest, evaluate_choice_file

    request = ChoicesRequest(**model, file=file, shots=shots, num_fewshot=num_fewshot or 0)
    evaluation, source = evaluate_choice_file(request)
    return (
        strict_json.dumps(report.as_json(evaluation, source)) if as_json else report.as_text(evaluation, source, file)
    )


def run_tasks(
    model: dict[str, Any],
    tasks: str,
    limit: int | None,
    num_fewshot: int | None,
    include_path: str | None,
    as_json: bool,
) -> str:
    """How it does at tasks, to be printed."""
    from gptcli.evaluate import task_report as report
    from gptcli.evaluate.requests import TasksRequest, evaluate_tasks

    names = tuple(name.strip() for name in tasks.split(",") if name.strip())
    request = TasksRequest(**model, tasks=names, limit=limit, num_fewshot=num_fewshot, include_path=include_path)
    evaluation, source = evaluate_tasks(request)
    return strict_json.dumps(report.as_json(evaluation, source)) if as_json else report.as_text(evaluation, source)
