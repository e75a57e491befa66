"""`gptcli replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gptcli import strict_json
from gptcli.cli.options import MOST, AsJson, CacheDir
from gptcli.console import show


def replay(
    run: Annotated[Path, typer.Argument(help="The run directory.", show_default=False)],
    step: Annotated[
        int, typer.Argument(help="The step, as metrics.jsonl counts.", min=1, max=10**15, show_default=False)
    ],
    top: Annotated[int, typer.Option(min=1, max=MOST, help="How many parameters and sequences to show.")] = 5,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Make one step of a run again, from the checkpoint before it, and show what its loss and gradient are made of."""
    from gptcli.storage import default_cache_dir
    from gptcli.train.replay import replay, report

    found = replay(run, step, cache_dir or default_cache_dir(), top)
    show(strict_json.dumps(found) if as_json else report(found))
