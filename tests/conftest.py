"""Fixtures that every test may use."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference corpora and tokenizers beside the checkout; a newcomer has none, CI must have them."""
    folder = ROOT.parent / "shared"
    if not (folder / "corpora").is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{folder} is missing: the reference corpora must lie beside the checkout in CI")
        pytest.skip("the reference corpora (../shared) are not beside this checkout")
    return folder


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """No test leaves variables behind: those that `gptcli` sets for its children would reach later tests' processes."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Paths that do not exist yet, each another one: most tests need none, and `mktemp` lists all that it made."""
    folder = tmp_path_factory.mktemp("caches")
    return map(folder.joinpath, map(str, itertools.count()))


@pytest.fixture(autouse=True)
def private_cache(caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(next(caches)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` are skipped where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
