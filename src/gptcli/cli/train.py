"""`gptcli train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def train(
    corpus: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, directories, globs, - (stdin), hf:NAME[:config][@split] or python:stdlib.", show_default=False
        ),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option("-c", "--config", help="A TOML file, or the name of a shipped one; later ones win."),
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one key, as in --set optim.lr=1e-3.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run directory (default: runs/ and the corpus's name).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run at --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen and stop.")] = False,
    cache_dir: Annotated[Path | None, typer.Option(help="Where token shards are kept between runs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Train a GPT on a corpus. With nothing but a corpus, everything else is chosen by its size and the device."""
    from gptcli.train.run import TrainRequest, train

    summary = train(
        TrainRequest(
            corpus=tuple(corpus or ()),
            config_files=tuple(config or ()),
            assignments=tuple(assignments or ()),
            out=out,
            resume=resume,
            dry_run=dry_run,
            cache_dir=cache_dir,
        )
    )
    if as_json and summary:
        print(json.dumps(summary))
