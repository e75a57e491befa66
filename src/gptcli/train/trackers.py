"""Where metrics go besides metrics.jsonl. Each tracker is imported only when it is asked for.

A tracker is told what metrics.jsonl is told. It is a convenience: one that fails is warned of once and left out, and
the training goes on. `trackers.json` in the run directory says under which names the trackers know this run, so that a
resumed run goes on with the same.
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
from typing import Any, Protocol

from gptcli import strict_json
from gptcli.console import say
from gptcli.errors import GptcliError, missing_extra
from gptcli.storage import read_regular, write_atomic

NAMES_FILE = "trackers.json"
PROJECT = "gptcli"
"""What the runs are gathered under, where the tracker's own environment variables name nothing else."""
Metrics = Mapping[str, float | int | str | None]


class Tracker(Protocol):
    key: str | None
    """By which the tracker finds this run again; none where it needs no such name."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoardTracker:
    """Event files in `run/tensorboard`; a resumed run adds one."""

    key = None

    def __init__(self, run: Path, key: str | None, config: Mapping[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_extra("tensorboard", "tensorboard", "train.trackers = ['tensorboard']") from error
        self.writer = SummaryWriter(run / "tensorboard")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class TrackioTracker:
    """A run in trackio's own directory (TRACKIO_DIR), which `trackio show` opens; TRACKIO_SPACE_ID sends it to a Space.

    trackio knows runs by their names, so this one's ends with a few random letters.
    """

    def __init__(self, run: Path, key: str | None, config: Mapping[str, Any]) -> None:
        try:
            import trackio
        except ImportError as error:
            raise missing_extra("trackio", "track", "train.trackers = ['trackio']") from error
        self.module, self.key = trackio, key or f"{run.resolve().name}-{secrets.token_hex(3)}"
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
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self.module.finish()


class WandbTracker:
    """A run of Weights & Biases, its files in `run/wandb`.

    WANDB_MODE says whether it is sent; where that is unset and nobody is logged in, the run is kept offline, and
    `wandb sync` sends it later.
    """

    def __init__(self, run: Path, key: str | None, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise missing_extra("wandb", "track", "train.trackers = ['wandb']") from error
        self.key = key or secrets.token_hex(4)
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
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
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        self.run.finish()


class MlflowTracker:
    """A run of MLflow on the server that MLFLOW_TRACKING_URI names, else in the database `run/mlflow.db`."""

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
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(name)
        if found:
            return found.experiment_id
        is_own = "MLFLOW_TRACKING_URI" not in os.environ
        place = (run.resolve() / "mlartifacts").as_uri() if is_own else None
        return self.client.create_experiment(name, artifact_location=place)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        values = [self.metric(name, float(value), now, step) for name, value in metrics.items()]
        self.client.log_batch(self.key, metrics=values)

    def close(self) -> None:
        self.client.set_terminated(self.key)


TRACKERS = {
    "tensorboard": TensorBoardTracker,
    "trackio": TrackioTracker,
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
}


class Trackers:
    """The trackers of a run, in the order in which they were asked for."""

    def __init__(self, trackers: Mapping[str, Tracker], logged: int) -> None:
        """Steps up to `logged` are with the trackers already: a resumed run, which makes some of them again with the
        same result, does not tell them twice."""
        self.alive, self.logged = dict(trackers), logged

    def log(self, step: int, line: Metrics) -> None:
        """Tell the numbers of a line of metrics.jsonl."""
        metrics = {name: value for name, value in line.items() if isinstance(value, int | float) and name != "step"}
        if step > self.logged:
            self.each("log", step, metrics)

    def close(self) -> None:
        self.each("close")

    def each(self, method: str, *arguments: Any) -> None:
        for name, tracker in list(self.alive.items()):
            try:
                getattr(tracker, method)(*arguments)
            except Exception as error:  # whatever another program's client raises must not end a training
                del self.alive[name]
                warn(name, error)


def open_trackers(names: Sequence[str], run: Path, config: Mapping[str, Any], logged: int = 0) -> Trackers:
    """The trackers of `train.trackers` for the run directory `run`, told its `config`, a table of tables.

    `logged` is the last step that metrics.jsonl holds.

    Raises:
        UsageError: one is not installed.
        StorageError: the names cannot be written.
    """
    keys = read_keys(run)
    opened: dict[str, Tracker] = {}
    for name in dict.fromkeys(names):
        try:
            opened[name] = TRACKERS[name](run, keys.get(name), flattened(config))
        except GptcliError:
            raise
        except Exception as error:  # no connection, no permission, a service that is down
            warn(name, error)
    found = {name: tracker.key for name, tracker in opened.items() if tracker.key}
    if found.items() - keys.items():
        write_atomic(run / NAMES_FILE, strict_json.dumps(keys | found, indent=2) + "\n")
    return Trackers(opened, logged)


def read_keys(run: Path) -> dict[str, str]:
    """By tracker the name that it knows the run by; none is known where the file is missing or damaged."""
    try:
        keys = strict_json.parse(read_regular(run / NAMES_FILE).decode())
    except (OSError, ValueError):
        return {}
    return {name: key for name, key in keys.items() if isinstance(key, str)} if isinstance(keys, dict) else {}


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"lr": 0.1}} -> {"optim.lr": 0.1}, without what is none."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        elif value is not None:
            flat[f"{prefix}{name}"] = value
    return flat


def warn(name: str, error: Exception) -> None:
    reason = " ".join(str(error).split())[:300]
    say(f"warning: {name} has failed and is told no more ({type(error).__name__}: {reason}); the training goes on")
