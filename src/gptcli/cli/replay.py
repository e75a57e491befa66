"""`gptcli replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gptcli import strict_json
from gptcli.cli.options import MOST, AsJson, CacheDir, output_option
from gptcli.console import show


def replay(
    run: Annotated[Path, typer.Argument(help="The run directory.")],
    step: Annotated[int, typer.Argument(help="The number of the step, as in metrics.jsonl.", min=1, max=10**15)],
    top: Annotated[int, output_option(min=1, max=MOST, help="Show this many parameters and sequences.")] = 5,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Repeat one step of a run and explain its loss and gradient.

    The step is computed again from the checkpoint before it. The parameters with the largest gradients and the
    sequences with the highest losses are shown.

    Examples:
        gptcli replay runs/book 1200
        gptcli replay runs/book 1200 --top 20 --json
    """
    from gptcli.storage import default_cache_dir
    from gptcli.train.replay import replay, report

    found = replay(run, step, cache_dir or default_cache_dir(), top)
    show(strict_json.dumps(found) if as_json else report(found))
