"""The paths of a run directory, and which of its checkpoints are whole. Reads no tensor.

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
    *("chat_template.jinja", "base.json", "adapter_config.json", "adapter_model.safetensors"),
)
"""Files and folders of a run that its manifest lists. Checkpoints and the copy of the initial model have their own."""
LOGS = ("metrics.jsonl", "samples.jsonl", "fingerprints.jsonl")
"""Files of a run that grow while it trains."""
COPY = "init"
"""The folder of a run with the model that training started from."""
TRACKER_FILES = ("tensorboard", "wandb", "mlflow.db", "mlartifacts")
"""Files and folders that trackers write into a run."""


@dataclass(frozen=True)
class CheckpointInfo:
    """One checkpoint of a run. `val_loss` (nats per token) is None if it was not evaluated or is damaged."""

    path: Path
    step: int
    val_loss: float | None

    def size_bytes(self) -> int:
        """Return the bytes on disk."""
        return sum(path.lstat().st_size for path in self.path.iterdir())

    def damage(self, group: ProcessGroup | None = None) -> CheckpointError | None:
        """Read every byte, shared by the ranks of `group`, and return the error that names a damaged file, or None."""
        try:
            verify(self.path, group)
        except CheckpointError as error:
            return error
        return None


class RunDirectory:
    """The paths of a run. The constructor touches no file; use `create` or `open`."""

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
            UsageError: a run or something else is there already; the message names the process that writes it, if any.
            StorageError: the directory cannot be made.
        """
        run = cls(path)
        with storage_errors(run.path, "create"):
            make_directory(run.checkpoints_dir)
            foreign = run.foreign_names()
        if cls.is_run(path):  # checked last: another process may be making it just now
            with run.lock():
                raise UsageError(f"{path} already holds a run", "continue it with --resume or choose another --out")
        if foreign:
            raise not_empty(path, foreign)
        return run

    @classmethod
    def require_creatable(cls, path: Path) -> None:
        """Raise the error that `create` would raise, as far as it can be foreseen, and leave nothing behind.

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
        """Return the names in the directory that are not left over from the start of a run there."""
        own = {self.lock_path.name, self.checkpoints_dir.name}
        return [p.name for p in self.path.iterdir() if p.name not in own and TEMPORARY_MARK not in p.name]

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Return the run at `path`.

        Raises:
            CheckpointError: there is no run; the message says what is missing.
        """
        run = cls(path)
        if not run.path.exists():
            raise CheckpointError(f"{path} does not exist", "give the directory that `gptcli train --out` wrote")
        if not cls.is_run(path):
            raise CheckpointError(f"{path} is not a run directory: it has no {run.config_path.name}")
        return run

    @staticmethod
    def is_run(path: Path) -> bool:
        """Return whether the directory is a run."""
        return RunDirectory(path).config_path.is_file()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Make this process the only writer during the block.

        Raises:
            UsageError: another process writes; the message names it.
            StorageError: something that will be written or removed is a link; the message names it.
        """
        with writer_lock(self.lock_path):
            self.require_own_files()
            yield

    def require_own_files(self) -> None:
        """Refuse a run in which something that training writes or removes is a link.

        The run itself may be reached through a link, and trackers may make links in their own folders.

        Raises:
            StorageError: there is a link; the message names it.
        """
        for name in (*RUN_FILES, *LOGS, *TRACKER_FILES, MANIFEST_NAME, COPY):
            refuse_special_file(self.path / name)
        self.require_own_checkpoints()

    def require_own_checkpoints(self) -> None:
        """Refuse links in place of checkpoints or of their folder; call it before one is written or removed.

        Raises:
            StorageError: there is a link; the message names it.
        """
        refuse_special_file(self.checkpoints_dir)
        if self.checkpoints_dir.is_dir():
            for path in self.checkpoints_dir.iterdir():
                refuse_special_file(path)

    def checkpoint_path(self, step: int) -> Path:
        """Return the directory of the checkpoint of a step."""
        return self.checkpoints_dir / f"step-{step:08d}"

    def checkpoints(self) -> list[CheckpointInfo]:
        """Return all checkpoints, damaged ones too, sorted by step."""
        if not self.checkpoints_dir.is_dir():
            return []
        found = [(STEP_NAME.fullmatch(path.name), path) for path in self.checkpoints_dir.iterdir()]
        steps = sorted((int(name[1]), path) for name, path in found if name and path.is_dir())
        return [CheckpointInfo(path, step, listed_val_loss(path)) for step, path in steps]

    def last_good(
        self, damaged: list[CheckpointError] | None = None, group: ProcessGroup | None = None
    ) -> CheckpointInfo | None:
        """Return the newest checkpoint whose every byte verifies, or None.

        The errors of newer, damaged checkpoints, each of which names its file, are appended to `damaged`. The ranks of
        `group` share the work and get the same result.
        """
        return first_good(on_first(group, self.checkpoints)[::-1], damaged, group)

    def best(self) -> CheckpointInfo | None:
        """Return the checkpoint of lowest validation loss (the earlier of equals); the newest if none was evaluated."""
        found = self.checkpoints()
        evaluated = by_loss(found)
        return evaluated[0] if evaluated else (found[-1] if found else None)

    def best_good(
        self, damaged: list[CheckpointError] | None = None, group: ProcessGroup | None = None
    ) -> CheckpointInfo | None:
        """Return the checkpoint of lowest validation loss among those that verify, or None; see `last_good`."""
        return first_good(by_loss(on_first(group, self.checkpoints)), damaged, group)

    def clean(self) -> list[Path]:
        """Remove what killed processes left half-written, and return it; call it while holding the lock.

        A checkpoint that was whole but not yet renamed is renamed instead: it may be the only one of its step.
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
    """Return the error about a directory with other content."""
    return UsageError(f"{path} is not empty (it holds {names[0]!r})", "choose another --out")


def by_loss(found: list[CheckpointInfo]) -> list[CheckpointInfo]:
    """Return the evaluated checkpoints, lowest validation loss first; equals keep their order."""
    losses = [(info.val_loss, info) for info in found if info.val_loss is not None]
    return [info for _, info in sorted(losses, key=lambda entry: entry[0])]


def first_good(
    candidates: list[CheckpointInfo], damaged: list[CheckpointError] | None, group: ProcessGroup | None
) -> CheckpointInfo | None:
    """Return the first checkpoint that verifies, or None; append the errors of those before it to `damaged`."""
    for info in candidates:
        error = info.damage(group)
        if error is None:
            return info
        if damaged is not None:
            damaged.append(error)
    return None


def listed_val_loss(path: Path) -> float | None:
    """Return the finite validation loss in a checkpoint's manifest, or None."""
    try:
        loss = read_manifest(path).val_loss
    except (CheckpointError, StorageError):  # its writer may be removing it just now
        return None
    return loss if isinstance(loss, int | float) and math.isfinite(loss) else None
