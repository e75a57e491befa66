"""`gptcli runs [list | show | diff | export | rm]`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gptcli.cli.help_page import Command, CommandGroup
from gptcli.cli.options import AsJson, output_option
from gptcli.cli.output import show_report

DEFAULT = "list"


class RunCommands(CommandGroup):
    """The commands on runs; without one of their names the words are folders to list."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the name of the command that lists."""
        if not args or (args[0] not in self.commands and args[0] not in ("--help", "-h")):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


runs_app = typer.Typer(name="runs", cls=RunCommands, help="List runs, look at one, compare two, export or remove some.")
order_option = partial(typer.Option, rich_help_panel="Order")
removal_option = partial(typer.Option, rich_help_panel="Removal")
Run = Annotated[Path, typer.Argument(help="The run directory.")]


@runs_app.command("list", cls=Command)
def list_runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIR]...", help="Runs, or folders with runs (default: runs).")
    ] = None,
    sort: Annotated[
        Literal["started", "name", "loss", "bits", "time", "model", "text", "disk"],
        order_option(help="Sort by this figure, the lowest first; by the start, the newest first."),
    ] = "started",
    is_reversed: Annotated[bool, order_option("--reverse", help="Turn the order round.")] = False,
    as_json: AsJson = False,
) -> None:
    """List runs with their sizes, losses, times and states.

    It is what `gptcli runs` does without the word list. A run is running while a process trains it, finished at its
    end, otherwise stopped, and damaged if a file is missing, cannot be read, or has another size than was recorded.

    Examples:
        gptcli runs list
        gptcli runs list archive/2026 --sort bits
        gptcli runs list --json
    """
    from gptcli.report.runs.listing import list_runs

    show_report(list_runs(folders or [Path("runs")], sort, is_reversed=is_reversed), as_json)


@runs_app.command("show", cls=Command)
def show(run: Run, as_json: AsJson = False) -> None:
    """Show a run: what it is, its curve and its samples.

    The curve of the losses is drawn in the terminal, with the verdict on it. A run that is training is shown as far
    as it has come.

    Examples:
        gptcli runs show runs/book
        gptcli runs show runs/book --json
    """
    from gptcli.console import terminal_columns
    from gptcli.report.runs.single import show_run

    show_report(show_run(run, terminal_columns()), as_json)


@runs_app.command("diff", cls=Command)
def diff(
    one: Run, other: Annotated[Path, typer.Argument(help="Another run directory.")], as_json: AsJson = False
) -> None:
    """List the settings in which two runs differ.

    Their sizes, losses and times are listed too.

    Examples:
        gptcli runs diff runs/book runs/book-2
        gptcli runs diff runs/book runs/book-2 --json
    """
    from gptcli.report.runs.single import compare_settings

    show_report(compare_settings(one, other), as_json)


@runs_app.command("export", cls=Command)
def export(
    run: Run,
    to: Annotated[
        Literal["csv", "tensorboard", "trackio", "wandb", "mlflow"],
        output_option(help="Write a table, or send the metrics to this tracker."),
    ] = "csv",
    out: Annotated[Path | None, output_option(metavar="FILE", help="Write the table to a new file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Export the metrics of a run: as a table, or to a tracker.

    Without --out the table is printed. A tracker gets the run as if it had been set by train.trackers.

    Examples:
        gptcli runs export runs/book > book.csv
        gptcli runs export runs/book --to tensorboard
    """
    from gptcli.errors import UsageError
    from gptcli.report.runs.export import as_csv, metrics_of, send, write_csv

    if out is not None and to != "csv":
        raise UsageError(f"--out is for a table, and {to} has a place of its own", "leave out --out")
    if to != "csv":
        show_report(send(run, to), as_json)
    elif out is not None:
        show_report(write_csv(run, out), as_json)
    elif as_json:
        raise UsageError("--json describes a file", "add --out FILE")
    else:
        sys.stdout.write(as_csv(metrics_of(run)))


@runs_app.command("rm", cls=Command)
def rm(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="The runs to remove.")],
    checkpoints: Annotated[
        bool, removal_option("--checkpoints", help="Remove the checkpoints only, and keep the finished model.")
    ] = False,
    yes: Annotated[bool, removal_option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Annotated[bool, output_option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Remove runs, or only their checkpoints.

    It asks before; where it cannot, --yes is needed. A run that is being trained is not removed. Without its
    checkpoints a run cannot be resumed.

    Examples:
        gptcli runs rm runs/trial runs/trial-2
        gptcli runs rm runs/book --checkpoints --yes
    """
    from gptcli import strict_json
    from gptcli.console import show, size
    from gptcli.errors import UsageError
    from gptcli.report.runs.removal import plan_removal

    removal = plan_removal(runs, only_checkpoints=checkpoints)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("nobody can be asked here", "add --yes")
        typer.confirm(removal.question(), abort=True, err=True)
    found = removal.carry_out()
    show(strict_json.dumps(found) if as_json else f"removed {', '.join(found['removed'])} ({size(found['bytes'])})")
