"""`gptcli import`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from gptcli.cli.options import AsJson


def import_model(
    source: Annotated[Path, typer.Argument(help="A checkpoint of nanoGPT (ckpt.pt).", show_default=False)],
    out: Annotated[Path, typer.Option(help="The model directory to write.", show_default=False)],
    tokenizer: Annotated[
        Path, typer.Option(help="A directory with its tokenizer.json, such as GPT-2's.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Make a model of another program one that generate and eval take. Runs nothing that is in it."""
    from gptcli.errors import UsageError
    from gptcli.interop.huggingface import require_embedded, write_huggingface
    from gptcli.interop.nanogpt import read_nanogpt
    from gptcli.interop.pickles import read_pickle
    from gptcli.tokenizer.tokenizer import load_tokenizer

    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty", "choose another --out")
    vocabulary = load_tokenizer(tokenizer)
    model = read_nanogpt(read_pickle(source), str(source))
    require_embedded(vocabulary, model.config, source)
    opened = write_huggingface(model, vocabulary, out)
    if as_json:
        print(json.dumps({"model": str(out), "parameters": model.parameter_count()}))
    else:
        print(f"{out}: {model.parameter_count():,} parameters, {opened}")
