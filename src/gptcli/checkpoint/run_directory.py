"""A run directory: where its config, metrics and checkpoints lie, and which checkpoints are good. Reads no tensor.

RUN/run.toml                             the resolved config; what makes a directory a run
RUN/gptcli-manifest.json                 size and SHA-256 of the run's files but for its checkpoints (gptcli.manifest)
RUN/metrics.jsonl                        one line a logged step
RUN/writer.lock                          held by the process that trains, and removed at its end
RUN/checkpoints/step-00000100/           model.safetensors, optimizer.safetensors, state.json, manifest.json
                                         (of N ranks that each save a part: model-00001-of-0000N.safetensors and so on)
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gptcli.checkpoint.collectives import on_first
from gptcli.checkpoint.lock import writer_lock
from gptcli.checkpoint.manifest import STEP_NAME, read_manifest, verify
from gptcli.errors import CheckpointError, StorageError, UsageError
from gptcli.manifest import MANIFEST_NAME
from gptcli.storage import (
    TEMPORARY_MARK,
    clean_temporaries,
    make_directory,
    publish,
    refuse_special_file,
    storage_errors,
    temporary_name,
)

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

RUN_FILES = (
    *("run.toml", "data.json", "summary.json", "trackers.json", "train-sketch", "val", "bad-steps"),
    *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
)
"""Files and folders of a run that its manifest lists. Its checkpoints and the copy of the model that it started from
have manifests of their own."""
LOGS = ("metrics.jsonl", "samples.jsonl", "fingerprints.jsonl")
"""Files of a run that grow while it trains."""
COPY = "init"
"""The folder of a run that holds the model that it was started from."""
TRACKER_FILES = ("tensorboard", "wandb", "mlflow.db", "mlartifacts")
"""Files and folders that trackers write into a run."""


@dataclass(frozen=True)
class CheckpointInfo:
    """One checkpoint of a run. `val_loss` (nats per token) is None when it was not evaluated, or is damaged."""

    path: Path
    step: int
    val_loss: float | None

    def size_bytes(self) -> int:
        """Bytes on disk."""
        return sum(path.lstat().st_size for path in self.path.iterdir())

    def damage(self, group: ProcessGroup | None = None) -> CheckpointError | None:
        """Read every byte: None if the checkpoint is whole, otherwise the error that names the damaged file.

        The ranks of `group`, where one is given, share the reading.
        """
        try:
            verify(self.path, group)
        except CheckpointError as error:
            return error
        return None


class RunDirectory:
    """The paths of a run. Constructing one touches nothing; use `create` or `open`."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.config_path = self.path / "run.toml"
        self.metrics_path = self.path / "metrics.jsonl"
        self.lock_path = self.path / "writer.lock"
        self.checkpoints_dir = self.path / "checkpoints"

    @classmethod
    def create(cls, path: Path) -> RunDirectory:
        """Make the directory of a new run; it becomes a run when `config_path` is written.

        Raises:
            UsageError: a run or something else lies there already; names the process that writes it, if one does.
            StorageError: the directory cannot be made.
        """
        run = cls(path)
        with storage_errors(run.path, "create"):
            make_directory(run.checkpoints_dir)
            foreign = run.foreign_names()
        if cls.is_run(path):  # asked after looking around: another process may be making it just now
            with run.lock():
                raise UsageError(f"{path} already holds a run", "continue it with --resume or choose another --out")
        if foreign:
            raise not_empty(path, foreign)
        return run

    @classmethod
    def require_creatable(cls, path: Path) -> None:
        """Raise the error that `create` would raise, as far as it can be foreseen; leaves nothing behind.

        Raises:
            UsageError: a file or a directory with other content is in the way.
            StorageError: the directory that would hold the run cannot be written.
        """
        run = cls(path)
        with storage_errors(run.path, "create"):
            if run.path.is_dir() and not cls.is_run(path) and (foreign := run.foreign_names()):
                raise not_empty(path, foreign)
            existing = next(place for place in (run.path, *run.path.absolute().parents) if os.path.lexists(place))
            if not existing.is_dir():
                raise UsageError(f"{existing} is not a directory", "choose another --out")
            probe = temporary_name(existing / "writable")
            probe.mkdir()  # permissions alone do not say whether a directory can be made there
            probe.rmdir()

    def foreign_names(self) -> list[str]:
        """The names in the directory that are not left over from a run that was begun there."""
        own = {self.lock_path.name, self.checkpoints_dir.name}
        return [p.name for p in self.path.iterdir() if p.name not in own and TEMPORARY_MARK not in p.name]

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """The run at `path`.

        Raises:
            CheckpointError: there is none; says what is missing.
        """
        run = cls(path)
        if not run.path.exists():
            raise CheckpointError(f"{path} does not exist", "give the directory that `gptcli train --out` wrote")
        if not cls.is_run(path):
            raise CheckpointError(f"{path} is not a run directory: it has no {run.config_path.name}")
        return run

    @staticmethod
    def is_run(path: Path) -> bool:
        return RunDirectory(path).config_path.is_file()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """`with run.lock():` makes this process the one that writes.

        Raises:
            UsageError: another process writes; names it.
            StorageError: something that will be written or removed is a link; names it.
        """
        with writer_lock(self.lock_path):
            self.require_own_files()
            yield

    def require_own_files(self) -> None:
        """Refuse a run in which something that a training writes or removes is a link to elsewhere. The run itself may
        be reached through one, and trackers may make links in their own folders.

        Raises:
            StorageError: names the link.
        """
        for name in (*RUN_FILES, *LOGS, *TRACKER_FILES, MANIFEST_NAME, COPY):
            refuse_special_file(self.path / name)
        self.require_own_checkpoints()

    def require_own_checkpoints(self) -> None:
        """Refuse links to checkpoints, and one to all of them: call it before any of them is written or removed.

        Raises:
            StorageError: names the link.
        """
        refuse_special_file(self.checkpoints_dir)
        if self.checkpoints_dir.is_dir():
            for path in self.checkpoints_dir.iterdir():
                refuse_special_file(path)

    def checkpoint_path(self, step: int) -> Path:
        return self.checkpoints_dir / f"step-{step:08d}"

    def checkpoints(self) -> list[CheckpointInfo]:
        """All checkpoints, damaged ones too, sorted by step."""
        if not self.checkpoints_dir.is_dir():
            return []
        found = [(STEP_NAME.fullmatch(path.name), path) for path in self.checkpoints_dir.iterdir()]
        steps = sorted((int(name[1]), path) for name, path in found if name and path.is_dir())
        return [CheckpointInfo(path, step, listed_val_loss(path)) for step, path in steps]

    def last_good(
        self, damaged: list[CheckpointError] | None = None, group: ProcessGroup | None = None
    ) -> CheckpointInfo | None:
        """The newest checkpoint whose every byte verifies; None when there is none.

        The errors of newer, damaged ones, each naming its file, are appended to `damaged`: say them loudly. The ranks
        of `group`, where one is given, share the work and find the same.
        """
        for info in reversed(on_first(group, self.checkpoints)):
            error = info.damage(group)
            if error is None:
                return info
            if damaged is not None:
                damaged.append(error)
        return None

    def best(self) -> CheckpointInfo | None:
        """The checkpoint of lowest validation loss (the earlier of equals); the newest when none was evaluated."""
        found = self.checkpoints()
        evaluated = [info for info in found if info.val_loss is not None]
        return min(evaluated, key=by_val_loss) if evaluated else (found[-1] if found else None)

    def best_good(
        self, damaged: list[CheckpointError] | None = None, group: ProcessGroup | None = None
    ) -> CheckpointInfo | None:
        """The checkpoint of lowest validation loss among those that verify, as `last_good`; None when none was
        evaluated, or none is whole."""
        found = on_first(group, self.checkpoints)
        for info in sorted((info for info in found if info.val_loss is not None), key=by_val_loss):
            error = info.damage(group)
            if error is None:
                return info
            if damaged is not None:
                damaged.append(error)
        return None

    def clean(self) -> list[Path]:
        """Remove what killed processes left half-written; call it while holding the lock. Returns what was removed.

        A checkpoint that was whole but not yet renamed is finished instead: it may be the only one of its step.
        """
        self.require_own_checkpoints()
        for orphan in sorted(self.checkpoints_dir.glob(f"step-*{TEMPORARY_MARK}*")):
            target = orphan.with_name(orphan.name.partition(TEMPORARY_MARK)[0])
            if not target.exists() and CheckpointInfo(orphan, 0, None).damage() is None:
                publish(orphan, target)
        return [
            path
            for folder in (self.path, self.checkpoints_dir)
            for path in clean_temporaries(folder, excluded="everyone")
        ]


def not_empty(path: Path, names: list[str]) -> UsageError:
    return UsageError(f"{path} is not empty (it holds {names[0]!r})", "choose another --out")


def by_val_loss(info: CheckpointInfo) -> float:
    return math.inf if info.val_loss is None else info.val_loss


def listed_val_loss(path: Path) -> float | None:
    """The finite validation loss in a checkpoint's manifest; None if there is none."""
    try:
        loss = read_manifest(path).val_loss
    except (CheckpointError, StorageError):  # its writer may be removing it just now
        return None
    return loss if isinstance(loss, int | float) and math.isfinite(loss) else None
