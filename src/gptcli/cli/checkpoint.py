"""`gptcli checkpoint`: what a run has saved, and whether it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gptcli.cli.help_page import Command
from gptcli.cli.options import AsJson
from gptcli.cli.output import show_report

checkpoint_app = typer.Typer(help="List and verify checkpoints, or rebase an adapter.", no_args_is_help=True)


@checkpoint_app.command("list", cls=Command)
def list_checkpoints(run: Annotated[Path, typer.Argument(help="The run directory.")], as_json: AsJson = False) -> None:
    """List the checkpoints of a run.

    Step, validation loss and size of each are shown, and whether its files are complete.

    Examples:
        gptcli checkpoint list runs/book
        gptcli checkpoint list runs/book --json
    """
    from gptcli.checkpoint.report import report_checkpoints

    show_report(report_checkpoints(run), as_json)


@checkpoint_app.command("verify", cls=Command)
def verify_checkpoints(
    run: Annotated[Path, typer.Argument(help="A run, or an imported model.")],
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Accept this file of the run as it is now, since you changed it; may be given several times.",
            rich_help_panel="Files",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read every file of a run and compare it with its checksum.

    The files of the checkpoints are included. The exit code is 4 if a file is damaged, and the file is named.

    Examples:
        gptcli checkpoint verify runs/book
        gptcli checkpoint verify runs/book --accept run.toml
    """
    from gptcli.checkpoint.report import accept_changes, verify_files

    if accept:
        accept_changes(run, accept)
    report = verify_files(run)
    show_report(report, as_json)
    report.raise_if_damaged()


@checkpoint_app.command("rebase", cls=Command)
def rebase_adapter(
    run: Annotated[Path, typer.Argument(help="The run of an adapter, or a directory of PEFT.")],
    base: Annotated[
        str, typer.Argument(help="The base model: a run, a Hugging Face directory, an adapter or hf:NAME.")
    ],
    as_json: AsJson = False,
) -> None:
    """Record the new place of an adapter's base model.

    The model there must have the weights that the adapter was trained on.

    Examples:
        gptcli checkpoint rebase runs/chats archive/base
        gptcli checkpoint rebase runs/chats hf:Qwen/Qwen3-0.6B
    """
    from gptcli.interop.rebase import rebase

    show_report(rebase(run, base), as_json)
