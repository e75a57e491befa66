"""Trackers, which get the metrics of metrics.jsonl. Each is imported only when it is used.

A tracker that fails is dropped with one warning, and the training continues. `trackers.json` in the run directory has
the names of this run in its trackers, so that a resumed run continues under the same names.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, assert_never

from gptcli import strict_json
from gptcli.config.load import leaves_of
from gptcli.console import say
from gptcli.errors import GptcliError, missing_extra
from gptcli.storage import read_regular, write_atomic
from gptcli.train.config import TrackerName

NAMES_FILE = "trackers.json"
PROJECT = "gptcli"
"""The project of the runs, unless an environment variable of the tracker names another one."""
Metrics = Mapping[str, float | int | str | None]


class Tracker(Protocol):
    """A destination of metrics."""

    key: str | None
    """The name by which the tracker finds this run again; None if it needs no name."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of a step."""

    def close(self) -> None:
        """Finish sending."""


class TensorBoardTracker:
    """Writes event files in `run/tensorboard`; a resumed run adds one."""

    key: str | None = None

    def __init__(self, run: Path, key: str | None, config: Mapping[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_extra("tensorboard", "tensorboard", "train.trackers = ['tensorboard']") from error
        self.writer = SummaryWriter(run / "tensorboard")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a step."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Finish the run."""
        self.writer.close()


class TrackioTracker:
    """Writes to trackio's directory (TRACKIO_DIR), which `trackio show` opens. TRACKIO_SPACE_ID sends it to a Space.

    trackio identifies runs by their names, so the name ends with a few random letters.
    """

    def __init__(self, run: Path, key: str | None, config: Mapping[str, Any]) -> None:
        try:
            import trackio
        except ImportError as error:
            raise missing_extra("trackio", "track", "train.trackers = ['trackio']") from error
        self.module = trackio
        self.key: str | None = key or f"{run.resolve().name}-{secrets.token_hex(3)}"
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        with contextlib.redirect_stdout(sys.stderr):
            self.run = trackio.init(
                project,
                name=self.key,
                config=dict(config),
                resume="allow" if key else "never",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of a step."""
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Finish the run."""
        with contextlib.redirect_stdout(sys.stderr):
            self.module.finish()  # type: ignore[no-untyped-call]  # trackio has no types


class WandbTracker:
    """Writes a run of Weights & Biases, with its files in `run/wandb`.

    WANDB_MODE decides whether it is sent. If that is unset and nobody is logged in, the run stays offline, and
    `wandb sync` sends it later.
    """

    def __init__(self, run: Path, key: str | None, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise missing_extra("wandb", "track", "train.trackers = ['wandb']") from error
        self.key: str | None = key or secrets.token_hex(4)
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.resolve().name,
            id=self.key,
            resume="allow" if key and mode == "online" else None,
            dir=run,
            mode=mode,
            config=dict(config),
            settings=wandb.Settings(console="off"),
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of a step."""
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Finish the run."""
        self.run.finish()


class MlflowTracker:
    """Writes a run of MLflow on the server that MLFLOW_TRACKING_URI names, else in the database `run/mlflow.db`."""

    def __init__(self, run: Path, key: str | None, config: Mapping[str, Any]) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Metric, Param
        except ImportError as error:
            raise missing_extra("mlflow", "track", "train.trackers = ['mlflow']") from error
        for talkative in ("mlflow", "alembic"):
            logging.getLogger(talkative).setLevel(logging.WARNING)
        own = f"sqlite:///{run.resolve() / 'mlflow.db'}"
        self.metric = Metric
        self.client = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or own)
        if key is None:
            params = [Param(name, str(value)) for name, value in config.items()]
            self.key = self.client.create_run(self.experiment(run), run_name=run.resolve().name).info.run_id
            for first in range(0, len(params), 100):  # as many as a server takes at once
                self.client.log_batch(self.key, params=params[first : first + 100])
        else:
            self.key = key
            self.client.update_run(key, status="RUNNING")

    def experiment(self, run: Path) -> str:
        """Return the id of the experiment, which is created if it does not exist."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(name)
        if found:
            return str(found.experiment_id)
        is_own = "MLFLOW_TRACKING_URI" not in os.environ
        place = (run.resolve() / "mlartifacts").as_uri() if is_own else None
        return str(self.client.create_experiment(name, artifact_location=place))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of a step."""
        now = int(time.time() * 1000)
        values = [self.metric(name, float(value), now, step) for name, value in metrics.items()]
        self.client.log_batch(self.key, metrics=values)

    def close(self) -> None:
        """Finish the run."""
        self.client.set_terminated(self.key)


def open_tracker(name: TrackerName, run: Path, key: str | None, config: Mapping[str, Any]) -> Tracker:
    """Return the tracker of this name, which continues its run of the name `key`, or begins one if that is None."""
    match name:
        case "tensorboard":
            return TensorBoardTracker(run, key, config)
        case "trackio":
            return TrackioTracker(run, key, config)
        case "wandb":
            return WandbTracker(run, key, config)
        case "mlflow":
            return MlflowTracker(run, key, config)
        case other:
            assert_never(other)


class Trackers:
    """The trackers of a run, in the order of the setting."""

    def __init__(self, trackers: Mapping[str, Tracker], logged: int) -> None:
        """
        Args:
            logged: the last step that the trackers have. A resumed run repeats some steps, which are not sent twice.
        """
        self.alive, self.logged = dict(trackers), logged

    def log(self, step: int, line: Metrics) -> None:
        """Send the numbers of a line of metrics.jsonl."""
        if step > self.logged:
            self.each("log", step, numbers_of(line))

    def close(self) -> None:
        """Close all trackers."""
        self.each("close")

    def each(self, method: str, *arguments: Any) -> None:
        """Call a method of every tracker, and drop those that fail."""
        for name, tracker in list(self.alive.items()):
            try:
                getattr(tracker, method)(*arguments)
            except Exception as error:  # no error of another program's client may end a training
                del self.alive[name]
                warn(name, error)


def numbers_of(line: Metrics) -> dict[str, float]:
    """Return the numbers of a line of metrics.jsonl but its step."""
    return {name: value for name, value in line.items() if isinstance(value, int | float) and name != "step"}


def open_trackers(names: Sequence[TrackerName], run: Path, config: Mapping[str, Any], logged: int = 0) -> Trackers:
    """Return the trackers of `train.trackers` for the run directory `run`.

    Args:
        config: the run's configuration, a table of tables.
        logged: the last step in metrics.jsonl.

    Raises:
        UsageError: a tracker is not installed.
        StorageError: the names cannot be written.
    """
    keys = read_keys(run)
    opened: dict[str, Tracker] = {}
    for name in dict.fromkeys(names):
        try:
            opened[name] = open_tracker(name, run, keys.get(name), flattened(config))
        except GptcliError:
            raise
        except Exception as error:  # no connection, no permission, a service that is down
            warn(name, error)
    found = {name: tracker.key for name, tracker in opened.items() if tracker.key}
    if found.items() - keys.items():
        write_atomic(run / NAMES_FILE, strict_json.dumps(keys | found, indent=2) + "\n")
    return Trackers(opened, logged)


def read_keys(run: Path) -> dict[str, str]:
    """Return the run's name in each tracker; empty where the file is missing or damaged."""
    try:
        keys = strict_json.parse(read_regular(run / NAMES_FILE).decode())
    except (OSError, ValueError):
        return {}
    return {name: key for name, key in keys.items() if isinstance(key, str)} if isinstance(keys, dict) else {}


def flattened(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested tables as one: {"optim": {"lr": 0.1}} -> {"optim.lr": 0.1}, without values that are None."""
    return {key: value for key, value in leaves_of(config) if value is not None}


def warn(name: str, error: Exception) -> None:
    """Print a warning on a tracker that failed."""
    reason = " ".join(str(error).split())[:300]
    say(f"warning: {name} has failed and is dropped ({type(error).__name__}: {reason}); the training goes on")
