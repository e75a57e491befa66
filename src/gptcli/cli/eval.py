"""`gptcli eval`."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from gptcli.cli.options import (
    MOST,
    MOST_TOKENS,
    AsJson,
    Checkpoint,
    Device,
    Model,
    Quantize,
    ReadingAssignments,
    compute_option,
    data_option,
)
from gptcli.cli.output import CommandResult, show_report

tasks_option = partial(typer.Option, rich_help_panel="Tasks")


def evaluate(
    run: Model,
    text: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, directories, globs, - (stdin) or hf:NAME (default: the run's own validation split)."
        ),
    ] = None,
    context: Annotated[
        int | None,
        data_option(
            min=1,
            max=MOST_TOKENS,
            help="Score windows of this many tokens (default: the model's context, at most 8,192).",
        ),
    ] = None,
    stride: Annotated[
        int | None,
        data_option(
            min=1, max=MOST_TOKENS, help="Advance each window by this many tokens (default: half the context)."
        ),
    ] = None,
    worst: Annotated[
        int, data_option(min=0, max=MOST, metavar="K", help="Show the K passages that the model predicts worst.")
    ] = 0,
    chat: Annotated[
        bool, data_option("--chat", help="Score the answers in conversations, as of a model that was trained on them.")
    ] = False,
    answers: Annotated[
        int | None,
        data_option(
            min=0,
            max=MOST,
            metavar="N",
            help="Generate at most N short answers of conversations and compare them (default: 1,000).",
        ),
    ] = None,
    assignments: ReadingAssignments = None,
    checkpoint: Checkpoint = "best",
    quantize: Quantize = None,
    batch_size: Annotated[
        int | None, compute_option(min=1, max=MOST, help="Score this many windows, choices or requests at a time.")
    ] = None,
    device: Device = "auto",
    choices: Annotated[
        str | None,
        tasks_option(
            metavar="FILE.jsonl",
            help='Score multiple-choice rows of {"prompt", "choices", "answer"} instead of a text.',
        ),
    ] = None,
    shots: Annotated[
        str | None, tasks_option(metavar="FILE.jsonl", help="Take the worked examples of --choices from this file.")
    ] = None,
    num_fewshot: Annotated[
        int | None,
        tasks_option(
            min=0,
            max=MOST,
            metavar="K",
            help="Put K worked examples before each row; --choices without --shots takes the first K rows, unscored.",
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        tasks_option(
            metavar="NAME,...",
            help="Run tasks of lm-evaluation-harness instead of a text: names, patterns or task files.",
        ),
    ] = None,
    limit: Annotated[
        int | None, tasks_option(min=1, max=MOST, metavar="N", help="Score at most N rows of each of --tasks.")
    ] = None,
    include_path: Annotated[
        str | None, tasks_option(metavar="DIR", help="Add the task files (.yaml) of this directory to --tasks.")
    ] = None,
    apply_chat_template: Annotated[
        bool, tasks_option("--apply-chat-template", help="Ask the questions of --tasks as messages of a conversation.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a model's perplexity, or its scores on tasks.

    On a text, the result is perplexity and bits per byte, with each token scored exactly once. On conversations, with
    --chat or for a model that was trained on some, it is perplexity on the assistant's tokens, and the share of short
    answers that the model writes exactly. Of a model that was trained on preferences, the chosen answers are scored so,
    and the pairs against the model that it started from.

    Examples:
        gptcli eval runs/book
        gptcli eval runs/book another-book.txt --worst 3
        gptcli eval runs/answers held-out.jsonl --chat
        gptcli eval runs/book --tasks hellaswag,piqa --limit 100
    """
    from gptcli.evaluate import requests
    from gptcli.session import ModelRequest

    model = ModelRequest(run, checkpoint, device, quantize=quantize)
    of_texts = {"TEXT": text, "--context": context, "--stride": stride, "--worst": worst, "--set": assignments}
    of_texts |= {"--chat": chat, "--answers": answers}
    of_tasks = {"--limit": limit, "--include-path": include_path, "--apply-chat-template": apply_chat_template}
    report: CommandResult
    if tasks is not None:
        refuse("--tasks", of_texts | {"--choices": choices, "--shots": shots})
        names = tuple(name.strip() for name in tasks.split(",") if name.strip())
        request = requests.TasksRequest(model, names, limit, num_fewshot, include_path, batch_size, apply_chat_template)
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
        report = requests.evaluate_texts(
            requests.TextsRequest(model, tuple(text or ()), options, reading, chat, answers)
        )
    show_report(report, as_json)


def refuse(what: str, options: dict[str, Any]) -> None:
    """Raise a UsageError if an option is given that would do nothing."""
    from gptcli.errors import UsageError

    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(f"{given[0]} has no effect on {what}", "leave it out")
