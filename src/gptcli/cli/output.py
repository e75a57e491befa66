"""Printing of results."""

from __future__ import annotations

from typing import Any, Protocol

from gptcli import strict_json
from gptcli.console import show


class CommandResult(Protocol):
    """The result of a command."""

    def as_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        ...

    def text(self) -> str:
        """Return the result for people."""
        ...


def show_report(report: CommandResult, as_json: bool) -> None:
    """Print a result on stdout, as one JSON object or for people."""
    show(strict_json.dumps(report.as_dict()) if as_json else report.text())
