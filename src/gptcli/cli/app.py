"""The `gptcli` command with all its subcommands, and its handling of errors.

Importing this module must stay fast (`gptcli --help` takes a quarter of a second): commands import what they run
inside their functions.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from gptcli import __version__
from gptcli.cli.bench import bench_app
from gptcli.cli.chat import chat
from gptcli.cli.checkpoint import checkpoint_app
from gptcli.cli.config import config_app
from gptcli.cli.data import data_app
from gptcli.cli.eval import evaluate
from gptcli.cli.export import export
from gptcli.cli.finetune import finetune
from gptcli.cli.generate import generate
from gptcli.cli.hints import Verb, Verbs
from gptcli.cli.import_model import import_model
from gptcli.cli.plan import plan
from gptcli.cli.push import push
from gptcli.cli.replay import replay
from gptcli.cli.runs import runs_app
from gptcli.cli.selfcheck import selfcheck
from gptcli.cli.serve import serve
from gptcli.cli.tokenizer import tokenizer_app
from gptcli.cli.train import train
from gptcli.cli.verify_resume import verify_resume

app = typer.Typer(
    name="gptcli",
    cls=Verbs,
    help="Train a GPT on your own text, generate from it, and measure how good it is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(wanted: bool) -> None:
    """Print the version and exit, if it is wanted."""
    if wanted:
        print(f"gptcli {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Apply the options that stand before the command."""
    if debug:
        os.environ["GPTCLI_DEBUG"] = "1"


app.command("train", cls=Verb)(train)
app.command("finetune", cls=Verb)(finetune)
app.command("generate", cls=Verb)(generate)
app.command("chat", cls=Verb)(chat)
app.command("eval", cls=Verb)(evaluate)
app.command("serve", cls=Verb)(serve)
app.command("plan", cls=Verb)(plan)
app.command("import", cls=Verb)(import_model)
app.command("export", cls=Verb)(export)
app.command("push", cls=Verb)(push)
app.command("replay", cls=Verb)(replay)
app.command("verify-resume", cls=Verb)(verify_resume)
app.command("selfcheck", cls=Verb)(selfcheck)
app.add_typer(runs_app, name="runs")
app.add_typer(bench_app, name="bench")
app.add_typer(data_app, name="data")
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(checkpoint_app, name="checkpoint")
app.add_typer(config_app, name="config")


def main() -> None:
    """Run the command; every error that a user can cause is printed as one line and sets the exit code."""
    from gptcli.cli.standard_streams import finish_stdout, prepare_streams
    from gptcli.console import protect_terminal
    from gptcli.interruptible import exit_process
    from gptcli.runtime import prepare

    prepare_streams()
    protect_terminal()
    try:
        require_working_directory()
        prepare()
        app()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException as error:
        try:
            code = report(error)
        except MemoryError:  # too little even for the message
            os.write(2, b"gptcli: the memory limit of this process is reached; raise it (ulimit -v)\n")
            code = 7
    unwritten = finish_stdout()
    if unwritten is not None and code == 0:
        code = report(unwritten)
    exit_process(code)


def require_working_directory() -> None:
    """Check that the working directory exists, since libraries fail in obscure ways without one.

    Raises:
        StorageError: it was removed.
    """
    from gptcli.errors import StorageError

    try:
        os.getcwd()
    except OSError as error:
        raise StorageError(
            f"the working directory cannot be used: {error.strerror}", "change to another directory"
        ) from error


def report(error: BaseException) -> int:
    """Print an error in one line, after its traceback with --debug, and return the exit code.

    Raises:
        BaseException: the error itself, if a user cannot have caused it.
    """
    from gptcli.cli.known_errors import as_gptcli_error
    from gptcli.console import say_error
    from gptcli.errors import StdoutClosed

    known = as_gptcli_error(error)
    if known is None:
        raise error
    if os.environ.get("GPTCLI_DEBUG"):
        import traceback

        traceback.print_exception(error)
    if not isinstance(known, StdoutClosed):
        say_error(known)
    return known.exit_code
