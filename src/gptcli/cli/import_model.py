"""`gptcli import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from gptcli.cli.options import AsJson, output_option
from gptcli.cli.output import show_report


def import_model(
    source: Annotated[
        str, typer.Argument(help="A Hugging Face directory, hf:NAME[@REVISION], nanoGPT's ckpt.pt, or llama2.c's .bin.")
    ],
    out: Annotated[Path, output_option(help="Write the model to this directory.")],
    tokenizer: Annotated[
        str | None,
        output_option(
            metavar="TOKENIZER",
            help="Use this tokenizer.json, its directory, or hf:NAME, if SOURCE contains no tokenizer.",
        ),
    ] = None,
    dtype: Annotated[
        Literal["fp32", "bf16", "fp16"], output_option(help="Store the weights in this number format.")
    ] = "fp32",
    as_json: AsJson = False,
) -> None:
    """Convert another program's model for use with gptcli.

    No code from the source is run.

    Examples:
        gptcli import hf:openai-community/gpt2 --out gpt2
        gptcli import out-shakespeare/ckpt.pt --out shakespeare --tokenizer hf:openai-community/gpt2
    """
    from gptcli.interop.import_model import import_model

    show_report(import_model(source, out, tokenizer, dtype), as_json)
