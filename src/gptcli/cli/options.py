"""Arguments and options that several commands share, and the groups of options in their help."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

MOST, MOST_TOKENS = 10**9, 2**27
"""The largest counts that options accept: of anything, and of the tokens of one sequence."""

configuration_option = partial(typer.Option, rich_help_panel="Configuration")
model_option = partial(typer.Option, rich_help_panel="Model")
compute_option = partial(typer.Option, rich_help_panel="Compute")
data_option = partial(typer.Option, rich_help_panel="Data")
output_option = partial(typer.Option, rich_help_panel="Output")

Corpus = Annotated[
    list[str] | None,
    typer.Argument(help="Files, directories, globs, - (stdin), hf:NAME[:config][@split] or python:stdlib."),
]
Model = Annotated[str, typer.Argument(help="A run, a Hugging Face model directory, or hf:NAME.")]
ConfigFiles = Annotated[
    list[str] | None,
    configuration_option(
        "-c", "--config", help="Read a TOML file or a shipped configuration of this name; later ones win."
    ),
]
Assignments = Annotated[
    list[str] | None, configuration_option("--set", metavar="KEY=VALUE", help="Set one key, as in --set optim.lr=1e-3.")
]
ReadingAssignments = Annotated[
    list[str] | None,
    data_option(
        "--set",
        metavar="data.KEY=VALUE",
        help="Set one key that decides how text is read, as in --set data.text_field=body.",
    ),
]
CacheDir = Annotated[Path | None, data_option(help="Keep prepared data here between runs (default: ~/.cache/gptcli).")]
Checkpoint = Annotated[str, model_option(help="Load this checkpoint of a run: best, last or a step.")]
Device = Annotated[str, compute_option(help="Run on this device: auto, cpu, cuda, cuda:N or mps.")]
Quantize = Annotated[
    Literal["int8"] | None, model_option(help="Store the weight matrices in 8 bits, which is faster on a CPU.")
]
License = Annotated[
    str | None, output_option(metavar="NAME", help="Name this licence in the model card, such as apache-2.0.")
]
AsJson = Annotated[bool, output_option("--json", help="Print one JSON object.")]
