"""The report of a bench: figures for JSON, tables of them for people, and the conditions they were measured under."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from gptcli import strict_json
from gptcli.console import say
from gptcli.nn.device import resolve_device
from gptcli.report.bench.machine import BUSY_LOAD, conditions, machine_line, versions_line
from gptcli.report.bench.options import BenchOptions
from gptcli.report.bench.tables import Table


@dataclass(frozen=True)
class Outcome:
    """The results of one bench."""

    bench: str
    results: dict[str, Any]
    tables: list[Table]


@dataclass(frozen=True)
class Report:
    """The outcomes of one command's benches, with its options and the machine."""

    conditions: dict[str, Any]
    options: BenchOptions
    outcomes: list[Outcome]

    def as_json(self) -> str:
        """Return the report as one JSON object."""
        results = {outcome.bench: outcome.results for outcome in self.outcomes}
        return strict_json.dumps(
            self.conditions | {"setting": asdict(self.options), "results": results}, ensure_ascii=False
        )

    def as_text(self) -> str:
        """Return the tables for a terminal, below the command, the machine and the versions."""
        machine, versions = machine_line(self.conditions["machine"]), versions_line(self.conditions["versions"])
        head = f"{self.conditions['command']}\n{machine}\n{versions}"
        return "\n\n".join([head, *(table.text() for table in self.tables)]) + "\n"

    def as_markdown(self) -> str:
        """Return the report as a section of docs/benchmarks.md."""
        machine, versions = machine_line(self.conditions["machine"]), versions_line(self.conditions["versions"])
        foot = f"{self.conditions['date']}, {machine}; {versions}.\n\n```sh\n{self.conditions['command']}\n```"
        return "\n\n".join([*(table.markdown() for table in self.tables), foot])

    @property
    def tables(self) -> list[Table]:
        """All tables of all benches."""
        return [table for outcome in self.outcomes for table in outcome.tables]


def run_benches(
    options: BenchOptions,
    benches: Sequence[Callable[[BenchOptions], Outcome]],
    versions: Mapping[str, str] | None = None,
    program: str = "gptcli",
) -> Report:
    """Run the benches one after the other; a line warns if the machine is busy with other work.

    Args:
        versions: versions of the other programs that are measured.
        program: how the user starts the command that is recorded in the report.
    """
    resolved = replace(options, device=str(resolve_device(options.device)))
    before = conditions(resolved.device, versions or {}, program)
    if before["machine"]["load"] > BUSY_LOAD:
        say(f"this machine is busy (load {before['machine']['load']}): the figures may be off")
    return Report(before, resolved, [bench(resolved) for bench in benches])
