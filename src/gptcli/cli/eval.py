"""`gptcli eval`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from gptcli.cli.options import Quantize


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
        int | None, typer.Option(help="Tokens in a window (default: all that the model can see).")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="Tokens from one window to the next (default: half the context).")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Windows scored at a time.")] = None,
    worst: Annotated[
        int, typer.Option(metavar="K", help="Show the K passages that the model finds most surprising.")
    ] = 0,
    checkpoint: Annotated[str, typer.Option(help="Of a run: best, last, or a step.")] = "best",
    quantize: Quantize = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    text_field: Annotated[
        str | None, typer.Option(help="The field with the text in .jsonl, .csv and .parquet (default: as the run's).")
    ] = None,
    document_separator: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What separates documents in a text file (default: as the run's)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure perplexity and bits per byte, each token scored exactly once."""
    from gptcli.evaluate import report
    from gptcli.evaluate.run import EvalRequest
    from gptcli.evaluate.run import evaluate as evaluate_request

    evaluation, source = evaluate_request(
        EvalRequest(
            model=run,
            texts=tuple(text or ()),
            context=context,
            stride=stride,
            batch_size=batch_size,
            worst=worst,
            checkpoint=checkpoint,
            quantize=quantize,
            device=device,
            text_field=text_field,
            document_separator=document_separator,
        )
    )
    if as_json:
        print(json.dumps(report.as_json(evaluation, source)))
    else:
        print(report.as_text(evaluation, source))
