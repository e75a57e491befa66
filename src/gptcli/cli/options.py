"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

MOST, MOST_TOKENS = 10**9, 2**27
"""The largest counts that options take: of anything, and of the tokens of one sequence."""

Corpus = Annotated[
    list[str] | None,
    typer.Argument(
        help="Files, directories, globs, - (stdin), hf:NAME[:config][@split] or python:stdlib.", show_default=False
    ),
]
ConfigFiles = Annotated[
    list[str] | None, typer.Option("-c", "--config", help="A TOML file, or the name of a shipped one; later ones win.")
]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one key, as in --set optim.lr=1e-3.")
]
ReadingAssignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="data.KEY=VALUE",
        help="Set a key that says how texts are read, as in --set data.text_field=body.",
    ),
]
CacheDir = Annotated[Path | None, typer.Option(help="Where token shards are kept between runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Quantize = Annotated[
    Literal["int8"] | None,
    typer.Option(
        help="Keep the matrices in 8 bits: a quarter to read for each token, so on a CPU faster.", show_default=False
    ),
]
