"""The options and arguments of gptcli that are numbers, as typer has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple


class Number(NamedTuple):
    """An option, or an argument by its name, that is a number, with its bounds."""

    verb: str
    name: str
    kind: type
    least: float | None
    most: float | None


def numbers_of(command: Any, verb: str = "") -> Iterator[Number]:
    """The numbers that a command and all below it take."""
    for parameter in command.params:
        kind = parameter.type_descriptor.annotation
        if kind in (int, float):
            name = max(parameter.opts, key=len)
            yield Number(verb, name, kind, parameter.min, parameter.max)
    for name, inner in getattr(command, "commands", {}).items():
        yield from numbers_of(inner, f"{verb} {name}".strip())
