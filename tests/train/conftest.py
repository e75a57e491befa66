"""A small corpus, and a finished run on it: trained once, and copies of it to change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from finished_runs import SETTINGS
from gptcli.train.request import TrainRequest
from gptcli.train.run import train
from numbered_lines import numbered_lines


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A file with a small text."""
    path = tmp_path / "corpus.txt"
    path.write_text(numbered_lines(300))
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and a finished run on it, which no test changes."""
    folder = tmp_path_factory.mktemp("finished run")  # with a space, so that what is printed must be quoted
    (folder / "my book.txt").write_text(numbered_lines(300))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        train(TrainRequest(corpus=(str(folder / "my book.txt"),), assignments=SETTINGS, out=folder / "my run"))
    return folder


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    shutil.copytree(folder / "my run", tmp_path / "my run")
    return tmp_path / "my run"
