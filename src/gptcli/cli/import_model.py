"""`gptcli import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from gptcli import strict_json
from gptcli.cli.options import AsJson
from gptcli.console import show


def import_model(
    source: Annotated[
        str,
        typer.Argument(
            help="A Hugging Face directory, hf:NAME[@REVISION], nanoGPT's ckpt.pt, or llama2.c's .bin.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The model directory to write.", show_default=False)],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="TOKENIZER", help="A tokenizer.json, its directory, or hf:NAME, where SOURCE brings none."
        ),
    ] = None,
    dtype: Annotated[Literal["fp32", "bf16", "fp16"], typer.Option(help="What the weights are written as.")] = "fp32",
    as_json: AsJson = False,
) -> None:
    """Make a model of another program one that every command takes. Runs nothing that is in it."""
    import torch

    from gptcli.interop.import_model import import_model

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    model, opened = import_model(source, out, tokenizer, dtypes[dtype])
    if as_json:
        print(strict_json.dumps({"model": str(out), "parameters": model.parameter_count()}))
    else:
        show(f"{out}: {model.parameter_count():,} parameters, {opened}")
