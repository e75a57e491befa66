"""`gptcli push`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from gptcli.cli.options import AsJson, Checkpoint, License, Model, output_option
from gptcli.cli.output import show_report


def push(
    run: Model,
    name: Annotated[str, typer.Argument(help="The repository on the hub: NAME or USER/NAME.")],
    private: Annotated[
        bool, output_option("--private", help="Make the repository private if it is a new one.")
    ] = False,
    revision: Annotated[
        str | None, output_option(metavar="BRANCH", help="Upload to this branch, created if missing (default: main).")
    ] = None,
    dtype: Annotated[
        Literal["f32", "bf16", "f16"], output_option(help="Store the weights in this number format.")
    ] = "f32",
    checkpoint: Checkpoint = "best",
    license: License = None,
    as_json: AsJson = False,
) -> None:
    """Upload a model and its card to the Hugging Face hub.

    The token is that of HF_TOKEN or of `hf auth login`.

    Examples:
        gptcli push runs/book my-book --private
        gptcli push runs/book my-name/my-book --license apache-2.0 --dtype bf16
    """
    from gptcli.interop.push import PushRequest
    from gptcli.interop.push import push as push_request

    pushed = push_request(PushRequest(run, name, private, revision, checkpoint, dtype, license))
    show_report(pushed, as_json)
