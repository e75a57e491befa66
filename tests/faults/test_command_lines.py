"""A slice of the campaigns of command_lines.py."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_tree import LEAVES
from faults.campaign import OFFLINE, nursery_in
from faults.command_lines import STREAMS, make_sandbox, planted_campaign, random_campaign, stream_campaign
from faults.line_words import SMALL, WORKING
from faults.nursery import Nursery
from faults.planted import plant, planted_imported
from faults.victim import make_corpus

needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    folder = tmp_path_factory.mktemp("nursery")
    with nursery_in(folder, HOME=str(folder), **OFFLINE) as (started, _):
        yield started


@pytest.fixture(scope="module")
def sandbox(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sandbox(tmp_path_factory.mktemp("sandbox") / "sandbox", nursery)


def test_every_command_has_a_line_that_works_or_is_known_to_need_more() -> None:
    needs_more = {"push", "verify-resume", "checkpoint rebase"}  # the Hub; two trainings; an adapter and its base
    needs_more |= {"serve", "chat", "selfcheck"}  # a signal that ends it; messages on stdin; half a minute
    needs_more |= {"runs rm"}  # a run that no other line reads
    lines = {" ".join(words) for words in LEAVES if words[0] != "bench"}
    assert lines - set(WORKING) == needs_more


@pytest.mark.slow
@needs_full
def test_random_command_lines_end_in_one_line_and_a_known_exit_code(
    nursery: Nursery, sandbox: Path, tmp_path: Path
) -> None:
    found = random_campaign(nursery, sandbox, tmp_path, trials=16, seed=1)
    assert found.trials == 16 and found.failures == []


@needs_full
def test_streams_that_cannot_be_used_decide_the_exit_code(nursery: Nursery, sandbox: Path, tmp_path: Path) -> None:
    found = stream_campaign(nursery, sandbox, tmp_path, part=0.06)
    assert found.trials >= len(STREAMS) and found.failures == []


@needs_full
def test_a_training_whose_summary_cannot_be_printed_is_saved(nursery: Nursery, tmp_path: Path) -> None:
    line = ["train", make_corpus(tmp_path), "--json", "--out", "new", *SMALL]
    command = nursery.run(line, tmp_path, hook='faults.command_lines:set_streams {"stdout": "full", "trial": "saved"}')
    assert command.code == 5 and command.last_line.startswith("gptcli: cannot write to stdout")
    assert nursery.run(["checkpoint", "verify", "new"], tmp_path).code == 0


def test_a_planted_module_that_is_imported_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    assert plant(tmp_path / "here", tmp_path / "markers") > 300
    command = [sys.executable, "-c", "import jinja2"]
    unsafe = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    assert subprocess.run(command, cwd=tmp_path / "here", env=unsafe, capture_output=True).returncode == 1
    assert planted_imported(tmp_path / "markers") == ["jinja2"]


@pytest.mark.slow
def test_no_planted_module_is_imported_by_any_command(nursery: Nursery, sandbox: Path, tmp_path: Path) -> None:
    found = planted_campaign(nursery, sandbox, tmp_path, started=1)
    assert found.trials > len(WORKING) and found.failures == []
