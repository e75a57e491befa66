"""Every command of gptcli with its options, as typer has them."""

from __future__ import annotations

import typer

from gptcli.cli.app import app


def commands(command, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], set[str]]:
    """The options of a command and of all below it, by their words; a group counts too."""
    found = {words: {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}}
    for name, inner in getattr(command, "commands", {}).items():
        found |= commands(inner, (*words, name))
    return found


COMMANDS = commands(typer.main.get_command(app))


def leaves(command, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], list]:
    """The parameters of every command that is no group."""
    inner = getattr(command, "commands", {})
    found = {} if inner else {words: list(command.params)}
    for name, below in inner.items():
        found |= leaves(below, (*words, name))
    return found


LEAVES = leaves(typer.main.get_command(app))
