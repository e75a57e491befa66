"""`gptcli verify-resume`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gptcli import strict_json
from gptcli.cli.options import AsJson, Assignments, CacheDir, ConfigFiles, Corpus
from gptcli.console import show


def verify_resume(
    corpus: Corpus = None,
    config: ConfigFiles = None,
    assignments: Assignments = None,
    steps: Annotated[int, typer.Option(min=2, max=10**6, help="Steps of each training.")] = 20,
    kills: Annotated[int, typer.Option(min=1, max=10**6, help="How often the second training is killed.")] = 2,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Decides when it is killed.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Keep both runs below this directory.", show_default=False)] = None,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Prove on this machine that a killed training, resumed, is the unbroken one: batches, random numbers, weights.

    Trains twice for a few steps, the second time killed (SIGKILL) and resumed, and compares hashes of every step.
    Exit 4, naming the first difference, if there is one.
    """
    from gptcli.train.verify_resume import Trial, verify_resume

    trial = Trial(tuple(corpus or ()), tuple(config or ()), tuple(assignments or ()), steps, kills, seed, cache_dir)
    result = verify_resume(trial, out)
    if as_json:
        print(strict_json.dumps(result.as_dict()))
    else:
        show(result.text())
    result.raise_if_different()
