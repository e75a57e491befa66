"""`gptcli runs rm`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.console import size
from gptcli.errors import UsageError
from gptcli.report.runs.record import files_below
from gptcli.storage import remove_directory

MODEL_FILES = ("model.safetensors", "adapter_model.safetensors")


@dataclass(frozen=True)
class Removal:
    """Folders that are to be removed, of runs that nobody writes."""

    runs: tuple[RunDirectory, ...]
    only_checkpoints: bool

    @property
    def folders(self) -> list[Path]:
        """The runs, or the folders of their checkpoints."""
        return [run.checkpoints_dir if self.only_checkpoints else run.path for run in self.runs]

    def bytes(self) -> int:
        """Return the bytes of the files in them."""
        return sum(count for folder in self.folders for _, count in files_below(folder))

    def question(self) -> str:
        """Return what is to be confirmed."""
        return f"remove {', '.join(map(str, self.folders))} ({size(self.bytes())})?"

    def carry_out(self) -> dict[str, Any]:
        """Remove the folders and return what was removed, for JSON.

        A folder is renamed first, so that nothing that was removed in part looks like a run.

        Raises:
            UsageError: a process writes one of the runs.
            StorageError: a folder cannot be removed.
        """
        count, removed = self.bytes(), [str(folder) for folder in self.folders]
        for run, folder in zip(self.runs, self.folders, strict=True):
            with run.lock():
                if folder.is_dir():
                    remove_directory(folder)
        return {"removed": removed, "bytes": count}


def plan_removal(paths: Sequence[Path], *, only_checkpoints: bool) -> Removal:
    """Return what is to be removed of these runs.

    Raises:
        CheckpointError: one is no run.
        UsageError: only checkpoints are to be removed, and a run has no finished model.
    """
    runs = [RunDirectory.open(path) for path in paths]
    for run in runs:
        if run.path.is_symlink():
            raise UsageError(f"{run.path} is a link", f"name the run itself: {run.path.resolve()}")
        if only_checkpoints and not any((run.path / name).is_file() for name in MODEL_FILES):
            raise UsageError(f"{run.path} has no finished model", "its checkpoints are all that there is of it")
    return Removal(tuple(runs), only_checkpoints)
