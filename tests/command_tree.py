"""Every command of gptcli with its options, as typer has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from gptcli.cli.app import app


def walk(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A command and all below it, by their words."""
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, (*words, name))


TREE = dict(walk(typer.main.get_command(app)))
COMMANDS = {
    words: {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for words, command in TREE.items()
}
"""The names of the options of every command; a group of commands counts too."""
LEAVES = {words: list(command.params) for words, command in TREE.items() if not hasattr(command, "commands")}
"""The parameters of every command that is no group."""
