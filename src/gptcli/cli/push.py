"""`gptcli push`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from gptcli.cli.options import AsJson
from gptcli.cli.output import show_report


def push(
    run: Annotated[str, typer.Argument(help="A run, a Hugging Face model directory, or hf:NAME.", show_default=False)],
    name: Annotated[str, typer.Argument(help="Where to: NAME, or USER/NAME.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="If it is new, only you can see it.")] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="The branch, made if there is none (default: main).")
    ] = None,
    dtype: Annotated[Literal["f32", "bf16", "f16"], typer.Option(help="Numbers to store the weights in.")] = "f32",
    checkpoint: Annotated[str, typer.Option(help="Of a run: best, last, or a step.")] = "best",
    license: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model's licence for its card, such as apache-2.0.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put a model and its card on the Hugging Face hub, with the token of HF_TOKEN or `hf auth login`."""
    from gptcli.interop.push import PushRequest
    from gptcli.interop.push import push as push_request

    pushed = push_request(PushRequest(run, name, private, revision, checkpoint, dtype, license))
    show_report(pushed, as_json)
