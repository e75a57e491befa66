"""Every input of a person has the result in the table of docs/reliability.md, and the remedy works when typed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from inputs import ATTEMPTS, examples, train_run
from inputs.attempt import Attempt
from inputs.table import PAGE, page_with_table


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_run(tmp_path_factory.mktemp("inputs") / "made")


SLOW = {id(attempt) for attempt in examples.ATTEMPTS}
PARAMETERS = [
    pytest.param(attempt, id=attempt.input[:70], marks=[pytest.mark.slow] if id(attempt) in SLOW else [])
    for attempt in ATTEMPTS
]


@pytest.mark.parametrize("attempt", PARAMETERS)
def test_an_input_has_the_result_in_the_table(attempt: Attempt, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(run.parent, folder)
    assert list(attempt.problems(folder)) == []


def test_the_table_in_the_docs_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page_with_table(page) == page, "run: python tests/inputs/table.py --write"
