"""`gptcli checkpoint`: what a run has saved, and whether it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gptcli.cli.output import show_report

checkpoint_app = typer.Typer(help="List the checkpoints of a run, and verify every file of it.", no_args_is_help=True)

Run = Annotated[Path, typer.Argument(help="The run directory.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@checkpoint_app.command("list")
def list_checkpoints(run: Run, as_json: AsJson = False) -> None:
    """List step, validation loss and size of every checkpoint, and whether it is whole."""
    from gptcli.checkpoint.report import report_checkpoints

    show_report(report_checkpoints(run), as_json)


@checkpoint_app.command("verify")
def verify_checkpoints(
    run: Annotated[Path, typer.Argument(help="The run, or an imported model.", show_default=False)],
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE", help="Take this file of the run as it is now, since you changed it; may be given again."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read every byte of every file, those of the checkpoints included; exit 4, naming the file, if one is damaged."""
    from gptcli.checkpoint.report import accept_changes, verify_files

    if accept:
        accept_changes(run, accept)
    report = verify_files(run)
    show_report(report, as_json)
    report.raise_if_damaged()
