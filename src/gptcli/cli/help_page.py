"""The layout of `--help`: options in groups, and examples as they are typed."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from typer.core import TyperCommand, TyperGroup


class HelpPage:
    """A command whose help lists its options by group and ends with the examples of its docstring.

    The group of an option is its `rich_help_panel`, which typer by itself uses only with rich, and importing rich would
    slow `--help` down. The section "Examples:" of a docstring becomes the epilog.
    """

    help: str | None
    epilog: str | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        text, _, examples = (self.help or "").partition("Examples:\n")
        if examples:
            self.help, self.epilog = text.strip(), examples.rstrip()

    def format_options(self, ctx: Any, formatter: Any) -> None:  # typer's classes of both are private
        """Write the arguments, each group of options, the options without a group, and the commands of a group."""
        sections: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for parameter in ctx.command.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                default = "Arguments" if parameter.param_type_name == "argument" else "Options"
                sections[parameter.rich_help_panel or default].append(record)
        for name, records in sections.items():
            with formatter.section(name):
                formatter.write_dl(records)
        if isinstance(self, TyperGroup):
            self.format_commands(ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, each on a line of its own, whatever its length."""
        if self.epilog:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {line.strip()}\n" for line in self.epilog.splitlines()))


class Command(HelpPage, TyperCommand):
    """A command with options."""


class CommandGroup(HelpPage, TyperGroup):
    """A command with commands below it."""
