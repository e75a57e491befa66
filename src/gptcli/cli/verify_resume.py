"""`gptcli verify-resume`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from gptcli.cli.options import AsJson, Assignments, CacheDir, ConfigFiles, Corpus, output_option
from gptcli.cli.output import show_report

trial_option = partial(typer.Option, rich_help_panel="Trial")


def verify_resume(
    corpus: Corpus = None,
    config: ConfigFiles = None,
    assignments: Assignments = None,
    steps: Annotated[int, trial_option(min=2, max=10**6, help="Train for this many steps, twice.")] = 20,
    kills: Annotated[int, trial_option(min=1, max=10**6, help="Kill the second training this often.")] = 2,
    seed: Annotated[int, trial_option(min=0, max=2**63 - 1, help="Choose the moments of the kills by this seed.")] = 0,
    out: Annotated[Path | None, output_option(help="Keep both runs in this directory.")] = None,
    cache_dir: CacheDir = None,
    as_json: AsJson = False,
) -> None:
    """Check that resuming a killed training changes nothing.

    A model is trained twice for a few steps, the second time killed (SIGKILL) and resumed. Batches, random numbers and
    weights of every step are compared by their hashes; the exit code is 4 if any of them differ, and the first
    difference is named.

    Examples:
        gptcli verify-resume book.txt
        gptcli verify-resume book.txt -c demo --steps 50 --kills 5
    """
    from gptcli.train.verify_resume import Trial, verify_resume

    trial = Trial(tuple(corpus or ()), tuple(config or ()), tuple(assignments or ()), steps, kills, seed, cache_dir)
    result = verify_resume(trial, out)
    show_report(result, as_json)
    result.raise_if_different()
