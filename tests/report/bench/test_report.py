"""What is printed: one JSON object, a table, or a block of Markdown, with machine, versions and command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from gptcli.errors import UsageError
from gptcli.report.bench import machine
from gptcli.report.bench.machine import cpu_description, machine_line
from gptcli.report.bench.options import BenchOptions, parse_list, positive_int, positive_number
from gptcli.report.bench.report import Outcome, Report, run_benches
from gptcli.report.bench.tables import Table

CPUINFO = """\
processor\t: 0
model name\t: A Fine Processor
flags\t\t: fpu sse avx2 avx512f amx_tile
"""


def outcome(options: BenchOptions) -> Outcome:
    results = {"rate": 1.5, "loss": math.nan, "threads": options.threads}
    return Outcome("train", results, [Table("Training", ("", "rate"), [("gptcli", "1.50")], ["Of a kind."])])


@pytest.fixture
def report() -> Report:
    return run_benches(BenchOptions(rounds=2, threads=3, device="cpu"), [outcome])


def test_json_is_one_object_that_every_reader_accepts(report: Report) -> None:
    printed = json.loads(report.as_json(), parse_constant=pytest.fail)
    assert printed["results"] == {"train": {"rate": 1.5, "loss": "NaN", "threads": 3}}
    assert printed["setting"] == {"rounds": 2, "seconds": 2.0, "threads": 3, "device": "cpu"}
    assert {"command", "date", "machine", "versions"} <= set(printed)
    assert printed["machine"]["cores"] >= 1


def test_text_and_markdown_say_what_was_measured_on_what(report: Report) -> None:
    for text in (report.as_text(), report.as_markdown()):
        assert "gptcli" in text and "torch" in text and "1.50" in text and "Of a kind." in text
    assert report.as_markdown().startswith("### Training\n\n|  | rate |\n| --- | ---: |\n| gptcli | 1.50 |")
    assert report.as_markdown().endswith("```")


def test_the_processor_is_read_from_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.Path, "read_text", lambda path: CPUINFO)
    assert cpu_description() == {"cpu": "A Fine Processor", "features": ["avx2", "avx512f", "amx_tile"]}


def test_a_system_without_cpuinfo_is_described_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(machine.Path, "read_text", fail)
    assert cpu_description()["cpu"]
    assert cpu_description()["features"] == []


def test_a_processor_without_amx_is_said_to_have_none() -> None:
    described = {"cpu": "X", "features": ["avx2"], "cores": 2, "memory_bytes": 2e10, "system": "Linux"}
    assert "avx2, no amx" in machine_line(described)
    assert "no amx" not in machine_line(described | {"features": ["amx_tile"]})


def test_a_busy_machine_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for load, said in ((0.3, False), (0.9, True)):
        monkeypatch.setattr(machine.os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        run_benches(BenchOptions(device="cpu"), [])
        assert ("this machine is busy (load 0.9)" in capsys.readouterr().err) == said


def test_lists_are_read_item_by_item() -> None:
    assert parse_list("1, 8", positive_int, "--batch-sizes") == (1, 8)
    for wrong in ("", "0", "1,,2", "a", "1.5"):
        with pytest.raises(UsageError, match=r"^--batch-sizes .* is not a whole number above 0$"):
            parse_list(wrong, positive_int, "--batch-sizes")
    assert parse_list("1.88,0.5", positive_number, "--targets") == (1.88, 0.5)
    for wrong in ("0", "-1", "inf", "nan", "x", ""):
        with pytest.raises(UsageError, match=r"^--targets .* is not a number above 0$"):
            parse_list(wrong, positive_number, "--targets")
