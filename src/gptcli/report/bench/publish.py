"""What a bench hands on: figures as JSON can write them and tables of them, with what they were measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from gptcli import strict_json
from gptcli.console import say
from gptcli.nn.device import resolve_device
from gptcli.report.bench.machine import BUSY_LOAD, conditions, machine_line, versions_line
from gptcli.report.bench.peers import Chosen, peer_versions
from gptcli.report.bench.setting import Setting
from gptcli.report.bench.tables import Table


@dataclass(frozen=True)
class Outcome:
    """Of one bench."""

    bench: str
    results: dict[str, Any]
    tables: list[Table]


@dataclass(frozen=True)
class Report:
    """Of one command: what it was measured on and how, and the outcomes of its benches."""

    conditions: dict[str, Any]
    setting: Setting
    outcomes: list[Outcome]

    def as_json(self) -> str:
        results = {outcome.bench: outcome.results for outcome in self.outcomes}
        return strict_json.dumps(
            self.conditions | {"setting": asdict(self.setting), "results": results}, ensure_ascii=False
        )

    def as_text(self) -> str:
        machine, versions = machine_line(self.conditions["machine"]), versions_line(self.conditions["versions"])
        head = f"{self.conditions['command']}\n{machine}\n{versions}"
        return "\n\n".join([head, *(table.text() for table in self.tables)]) + "\n"

    def as_markdown(self) -> str:
        """The block that docs/benchmarks.md carries."""
        machine, versions = machine_line(self.conditions["machine"]), versions_line(self.conditions["versions"])
        foot = f"{self.conditions['date']}, {machine}; {versions}.\n\n```sh\n{self.conditions['command']}\n```"
        return "\n\n".join([*(table.markdown() for table in self.tables), foot])

    @property
    def tables(self) -> list[Table]:
        return [table for outcome in self.outcomes for table in outcome.tables]


def hold(setting: Setting, benches: Sequence[Callable[[Setting], Outcome]], peers: Iterable[Chosen] = ()) -> Report:
    """Hold the benches one after the other. A machine that is busy with other work is named, not refused."""
    resolved = replace(setting, device=str(resolve_device(setting.device)))
    before = conditions(resolved.device, peer_versions(peers))
    if before["machine"]["load"] > BUSY_LOAD:
        say(f"this machine is busy (load {before['machine']['load']}): the figures may be off")
    return Report(before, resolved, [bench(resolved) for bench in benches])
