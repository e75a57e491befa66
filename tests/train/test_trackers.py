"""Metrics reach TensorBoard, and a tracker that is not installed is one clear line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gptcli.errors import UsageError
from gptcli.train.trackers import open_trackers


def test_tensorboard_holds_what_was_logged(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (tracker,) = open_trackers(["tensorboard"], tmp_path)
    for step in (1, 2):
        tracker.log(step, {"step": step, "train_loss": 3.0 / step, "val_loss": None})
    tracker.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["train_loss"]
    assert [(event.step, event.value) for event in events.Scalars("train_loss")] == [(1, 3.0), (2, 1.5)]


def test_a_missing_tracker_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"pip install 'gptcli\[tensorboard\]'"):
        open_trackers(["tensorboard"], tmp_path)
