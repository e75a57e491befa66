"""Saving beside the training: what is saved is what was submitted, and a failure is told of, once."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gptcli.checkpoint import background
from gptcli.checkpoint.background import BackgroundSaver
from gptcli.checkpoint.load import load_checkpoint
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.errors import StorageError


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run")


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Saves wait for it before they write anything."""
    go = threading.Event()
    original = background.save_checkpoint

    def waiting(*arguments: object) -> Path:
        assert go.wait(30)
        return original(*arguments)

    monkeypatch.setattr(background, "save_checkpoint", waiting)
    yield go
    go.set()


def nothing() -> None:
    pass


def submit(saver: BackgroundSaver, step: int, tensors: dict[str, torch.Tensor], loss: float | None = None) -> None:
    assert saver.wait() is None
    saver.submit(step, {"model": tensors}, {"val_loss": loss, "step": step}, nothing)


def test_what_changes_after_submitting_is_not_in_the_checkpoint(run: RunDirectory, held: threading.Event) -> None:
    saver, weight = BackgroundSaver(run, keep_last=2), torch.arange(12.0).reshape(3, 4)
    submit(saver, 1, {"weight": weight.t(), "count": torch.tensor(7)})
    before = weight.t().clone()
    weight.mul_(-1)
    assert not run.checkpoints()  # submitting did not wait
    held.set()
    assert saver.wait() is None
    saved = load_checkpoint(run.checkpoint_path(1)).tensors["model"]
    assert torch.equal(saved["weight"], before) and saved["count"] == 7


def test_the_copy_is_made_into_the_same_memory_again(run: RunDirectory) -> None:
    saver = BackgroundSaver(run, keep_last=9)
    places = []
    for step in (1, 2, 3):
        submit(saver, step, {"weight": torch.full((50, 50), float(step))})
        assert saver.wait() is None
        places.append(saver.copy["model"]["weight"].data_ptr())
    assert len(set(places)) == 1
    for step in (1, 2, 3):
        assert (load_checkpoint(run.checkpoint_path(step)).tensors["model"]["weight"] == step).all()


def test_unwanted_checkpoints_go_and_wanted_ones_stay(run: RunDirectory) -> None:
    saver = BackgroundSaver(run, keep_last=1, keep_every_steps=4)
    for step, loss in enumerate((9.0, 3.0, 5.0, 6.0, 7.0, 8.0), start=1):
        submit(saver, step, {"weight": torch.zeros(1)}, loss)
    assert saver.wait() is None
    assert [info.step for info in run.checkpoints()] == [2, 4, 6]


def test_a_failure_is_told_once_and_the_next_save_goes_on(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = BackgroundSaver(run, keep_last=2)
    submit(saver, 1, {"weight": torch.zeros(1)})
    assert saver.wait() is None

    def full(*arguments: object) -> Path:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(background, "save_checkpoint", full)
        submit(saver, 2, {"weight": torch.ones(1)})
        assert "the disk is full" in str(saver.wait())
    assert saver.wait() is None and saver.step is None
    submit(saver, 2, {"weight": torch.ones(1)})
    assert saver.wait() is None and saver.step == 2
    assert [info.step for info in run.checkpoints()] == [1, 2]


def test_what_comes_before_a_save_comes_before_it(run: RunDirectory) -> None:
    saver = BackgroundSaver(run, keep_last=2)

    def failing() -> None:
        raise StorageError(os.strerror(errno.ENOSPC))

    saver.submit(1, {"model": {"weight": torch.zeros(1)}}, {}, failing)
    assert isinstance(saver.wait(), StorageError)
    assert not run.checkpoints()


def test_an_error_that_is_no_full_disk_is_raised(run: RunDirectory) -> None:
    saver = BackgroundSaver(run, keep_last=2)
    saver.submit(1, {"model": {"weight": torch.zeros(1)}}, {"not": object()}, nothing)
    with pytest.raises(TypeError):
        saver.wait()
