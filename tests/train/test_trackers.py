"""Metrics reach every tracker as its own library reads them back, a resumed run goes on there, and none ends a run."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gptcli.errors import UsageError
from gptcli.train.trackers import NAMES_FILE, Trackers, flattened, open_trackers

CONFIG = {"seed": 1, "optim": {"name": "adamw", "lr": 0.1, "momentum": None}}
MODULES = {"tensorboard": "torch.utils.tensorboard", "trackio": "trackio", "wandb": "wandb", "mlflow": "mlflow"}


@pytest.fixture
def logged(tmp_path: Path) -> Callable[..., Path]:
    """Log the steps of two runs of the command: the second resumes after the checkpoint of step 2."""

    def log(name: str) -> Path:
        run = tmp_path / "book"
        run.mkdir()
        for steps, known in (((1, 2, 3), 0), ((3, 4), 3)):
            trackers = open_trackers([name], run, CONFIG, known)
            assert list(trackers.alive) == [name]
            for step in steps:
                trackers.log(step, {"step": step, "train_loss": 3.0 / step, "val_loss": None})
            trackers.close()
            assert list(trackers.alive) == [name]
        return run

    return log


def test_tensorboard_holds_what_was_logged(logged: Callable) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(logged("tensorboard") / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["train_loss"]
    values = [(event.step, event.value) for event in events.Scalars("train_loss")]
    assert values == [(1, 3.0), (2, 1.5), (3, 1.0), (4, 0.75)]


def test_trackio_goes_on_with_the_run(
    logged: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    pytest.importorskip("trackio")
    from trackio import sqlite_storage, utils

    for module in (utils, sqlite_storage):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    run = logged("trackio")
    name = json.loads((run / NAMES_FILE).read_text())["trackio"]
    assert name.startswith("book-")
    assert sqlite_storage.SQLiteStorage.get_runs("gptcli") == [name]
    logs = sqlite_storage.SQLiteStorage.get_logs("gptcli", name)
    assert [(line["step"], line["train_loss"]) for line in logs] == [(1, 3.0), (2, 1.5), (3, 1.0), (4, 0.75)]
    assert capsys.readouterr().out == ""


def leveldb_records(log: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format, blocks of 32 KiB, after a header of 7 bytes."""
    offset, parts = 7, []
    while offset + 7 <= len(log):
        if -offset % 2**15 < 7:
            offset += -offset % 2**15
            continue
        _, size, kind = struct.unpack_from("<IHB", log, offset)
        if offset + 7 + size > len(log):  # not all of it is written yet
            return
        parts.append(log[offset + 7 : offset + 7 + size])
        offset += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


def wandb_records(file: Path) -> list[Any]:
    """The records of a .wandb file. wandb's own process writes them, the last ones after the tracker is closed."""
    from wandb.proto import wandb_internal_pb2

    until = time.monotonic() + 30
    while True:
        records = [wandb_internal_pb2.Record.FromString(data) for data in leveldb_records(file.read_bytes())]
        if time.monotonic() > until or (records and records[-1].WhichOneof("record_type") == "exit"):
            return records
        time.sleep(0.05)


def test_wandb_is_kept_offline_under_one_id(
    logged: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # nobody is logged in
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    run = logged("wandb")
    key = json.loads((run / NAMES_FILE).read_text())["wandb"]
    found, configs = [], []
    # wandb numbers the directories of runs begun in one second.
    for file in sorted(run.glob(f"wandb/offline-run-*-{key}*/run-{key}.wandb")):
        for record in wandb_records(file):
            if record.WhichOneof("record_type") == "run":
                configs.append({item.key: json.loads(item.value_json) for item in record.run.config.update})
            if record.WhichOneof("record_type") == "history":
                items = {item.nested_key[0] or item.key: item.value_json for item in record.history.item}
                found.append((json.loads(items["_step"]), json.loads(items["train_loss"])))
    assert found == [(1, 3.0), (2, 1.5), (3, 1.0), (4, 0.75)]
    assert configs[0]["optim.lr"] == 0.1
    assert capsys.readouterr().out == ""


# mlflow's own database code uses what SQLAlchemy has deprecated.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")
@pytest.mark.slow
def test_mlflow_goes_on_with_the_run_in_a_database_of_its_own(
    logged: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    run = logged("mlflow")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("gptcli").experiment_id])
    assert found.info.run_id == json.loads((run / NAMES_FILE).read_text())["mlflow"]
    assert (found.info.run_name, found.info.status) == ("book", "FINISHED")
    assert found.data.params == {"seed": "1", "optim.name": "adamw", "optim.lr": "0.1"}
    history = client.get_metric_history(found.info.run_id, "train_loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 3.0), (2, 1.5), (3, 1.0), (4, 0.75)]


@pytest.mark.parametrize("name", MODULES)
def test_a_missing_tracker_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, MODULES[name], None)
    extra = "tensorboard" if name == "tensorboard" else "track"
    with pytest.raises(UsageError, match=rf"train.trackers = \['{name}'\] needs .*pip install 'gptcli\[{extra}\]'"):
        open_trackers([name], tmp_path, CONFIG)


def test_no_tracker_is_imported_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in MODULES.values():
        monkeypatch.setitem(sys.modules, module, None)
    open_trackers([], tmp_path, CONFIG).log(1, {"train_loss": 1.0})
    assert list(tmp_path.iterdir()) == []


class Fragile:
    key = None

    def __init__(self, breaks: str) -> None:
        self.breaks, self.told = breaks, []

    def log(self, *told: Any) -> None:
        self.told.append(told)
        if self.breaks == "log":
            raise ConnectionError("the service\nis down")

    def close(self) -> None:
        if self.breaks == "close":
            raise RuntimeError("too late")


def test_a_tracker_that_fails_is_warned_of_once_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    broken, whole = Fragile("log"), Fragile("close")
    trackers = Trackers({"wandb": broken, "mlflow": whole}, logged=0)
    trackers.log(1, {"train_loss": 1.0})
    trackers.log(2, {"train_loss": 0.5})
    trackers.close()
    assert (len(broken.told), len(whole.told)) == (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "warning: wandb has failed and is dropped (ConnectionError: the service is down); the training goes on",
        "warning: mlflow has failed and is dropped (RuntimeError: too late); the training goes on",
    ]


def test_a_tracker_that_cannot_begin_does_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(run: Path, key: str | None, config: dict) -> None:
        raise PermissionError("no access")

    monkeypatch.setattr("gptcli.train.trackers.WandbTracker", refuse)
    assert open_trackers(["wandb"], tmp_path, CONFIG).alive == {}
    assert "wandb has failed" in capsys.readouterr().err


def test_a_damaged_file_of_names_begins_new_runs(tmp_path: Path) -> None:
    for content in ("{", "[]", '{"wandb": 3}'):
        (tmp_path / NAMES_FILE).write_text(content)
        assert open_trackers([], tmp_path, CONFIG).alive == {}


def test_a_config_is_told_flat_and_without_what_is_none() -> None:
    assert flattened(CONFIG) == {"seed": 1, "optim.name": "adamw", "optim.lr": 0.1}


def test_a_training_tells_its_trackers_what_metrics_jsonl_says(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from gptcli.train.run import TrainRequest, train

    (tmp_path / "corpus.txt").write_text("".join(f"line {n} of the corpus\n" for n in range(100)))
    settings = (
        "model.n_layer=1", "model.n_embd=16", "model.n_head=2", "model.context_length=16", "train.max_steps=4",
        "data.tokenizer.name=byte", "train.tokens_per_step=32", "train.batch_size=2", "train.log_every_steps=2",
        "train.eval_every_steps=4", "train.trackers=['tensorboard']", "device=cpu",
    )  # fmt: skip
    train(TrainRequest(corpus=(str(tmp_path / "corpus.txt"),), assignments=settings, out=tmp_path / "run"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    for name in ("train_loss", "val_loss", "lr"):
        told = [(event.step, event.value) for event in events.Scalars(name)]
        assert told == [(line["step"], pytest.approx(line[name])) for line in lines if line[name] is not None]
