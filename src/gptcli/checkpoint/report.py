"""Reports of `gptcli checkpoint` on a run: its checkpoints, its other files, and their damage. Reads no tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli.checkpoint.run_directory import COPY, LOGS, RUN_FILES, CheckpointInfo, RunDirectory
from gptcli.console import quantity, say, size
from gptcli.errors import CheckpointError, UsageError
from gptcli.manifest import MANIFEST_NAME, Manifest, accept_command, changed_file_error, read_manifest, record, withdraw


@dataclass(frozen=True)
class CheckpointReport:
    """Every checkpoint of a run with its damage, which is None for a whole one."""

    run: RunDirectory
    checkpoints: tuple[tuple[CheckpointInfo, CheckpointError | None], ...]

    @property
    def best_step(self) -> int | None:
        """The step of the checkpoint that `generate` and `eval` use, from the manifests of all checkpoints."""
        best = self.run.best()
        return None if best is None else best.step

    def as_dict(self) -> dict[str, Any]:
        """Return {"run", "checkpoints": [{"step", "is_best", "path", "val_loss", "bytes", "verified", "damage"}]}."""
        best_step = self.best_step
        entries = [
            {
                "step": info.step,
                "is_best": info.step == best_step,
                "path": str(info.path),
                "val_loss": info.val_loss,
                "bytes": info.size_bytes(),
                "verified": damage is None,
                "damage": None if damage is None else str(damage),
            }
            for info, damage in self.checkpoints
        ]
        return {"run": str(self.run.path), "checkpoints": entries}

    def text(self) -> str:
        """Return one line for each checkpoint."""
        best_step = self.best_step
        lines = [f"{'step':>10}  {'val loss':>9}  {'size':>8}  state"]
        for info, damage in self.checkpoints:
            loss = "-" if info.val_loss is None else f"{info.val_loss:.4f}"
            state = "whole" if damage is None else str(damage)
            state += ", best" if info.step == best_step else ""
            lines.append(f"{info.step:>10,}  {loss:>9}  {size(info.size_bytes()):>8}  {state}")
        return "\n".join(lines) if self.checkpoints else f"{self.run.path} has no checkpoints"


@dataclass(frozen=True)
class FilesReport:
    """The files that the manifest of a directory lists, each with its damage, which is None for a whole one.

    Attributes:
        damage: the damage of the manifest itself.
    """

    directory: Path
    manifest: Manifest
    damage: CheckpointError | None
    files: tuple[tuple[str, CheckpointError | None], ...]

    @classmethod
    def of(cls, directory: Path) -> FilesReport:
        """Read every byte of the files that the manifest of the directory lists."""
        try:
            manifest = read_manifest(directory)
        except CheckpointError as error:
            return cls(directory, Manifest(directory), error, ())
        damages = {name: manifest.damage(name) for name in (*manifest.files, *manifest.logs)}
        files = tuple(
            (name, changed_file_error(manifest, name, damage) if damage else None) for name, damage in damages.items()
        )
        return cls(directory, manifest, None, files)

    @property
    def damaged(self) -> list[CheckpointError]:
        """The errors of the manifest and of its files."""
        return [error for error in (self.damage, *(error for _, error in self.files)) if error is not None]

    def entries(self) -> list[dict[str, Any]]:
        """Return [{"path", "bytes", "verified", "damage"}]."""
        listed = {**self.manifest.files, **self.manifest.logs}
        return [
            {
                "path": str(self.directory / name),
                "bytes": listed[name].bytes,
                "verified": error is None,
                "damage": None if error is None else str(error),
            }
            for name, error in self.files
        ]

    def lines(self) -> list[str]:
        """Return the report in words: one line, and one for each damaged file."""
        if self.damage is None and not self.manifest.is_there:
            hint = f"to list its files as they are now: {accept_command(self.directory, MANIFEST_NAME)}"
            return [f"{self.directory} has no manifest, so only its checkpoints can be verified; {hint}"]
        total = sum(entry.bytes for entry in (*self.manifest.files.values(), *self.manifest.logs.values()))
        whole = "every file" if not self.damaged else f"{len(self.damaged)} of them damaged"
        summary = f"{quantity(len(self.files), 'file')} in {self.directory} ({size(total)}): {whole}"
        return [summary + (" is whole" if not self.damaged else ""), *map(str, self.damaged)]


@dataclass(frozen=True)
class VerifyReport:
    """The result of `gptcli checkpoint verify`: checkpoints, the run's files, those of the model it started from."""

    checkpoints: CheckpointReport
    files: tuple[FilesReport, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the table of the checkpoints with "files": [{"path", "bytes", "verified", "damage"}]."""
        return {**self.checkpoints.as_dict(), "files": [entry for report in self.files for entry in report.entries()]}

    def text(self) -> str:
        """Return the report in words."""
        return "\n".join([self.checkpoints.text(), *(line for report in self.files for line in report.lines())])

    def raise_if_damaged(self) -> None:
        """Raise a CheckpointError that counts the damaged files and names the first of them."""
        listed = self.checkpoints.checkpoints
        errors = [damage for _, damage in listed if damage is not None]
        counts = [f"{len(errors)} of {len(listed)} checkpoints damaged"] if errors else []
        others = [error for report in self.files for error in report.damaged]
        counts += [f"{quantity(len(others), 'other file')} damaged"] if others else []
        if counts:
            raise CheckpointError(f"{' and '.join(counts)}: {[*errors, *others][0]}")


def report_checkpoints(path: Path) -> CheckpointReport:
    """Verify every checkpoint of the run at `path`.

    Raises:
        CheckpointError: there is no run at `path`.
    """
    run = RunDirectory.open(path)
    return CheckpointReport(run, tuple((info, info.damage()) for info in run.checkpoints()))


def verify_files(path: Path) -> VerifyReport:
    """Read every byte of the run, or of the imported model, at `path`.

    Raises:
        CheckpointError: there is neither at `path`.
    """
    is_model = not RunDirectory.is_run(path) and (path / MANIFEST_NAME).is_file()
    checkpoints = CheckpointReport(RunDirectory(path), ()) if is_model else report_checkpoints(path)
    copies = [path / COPY] if (path / COPY).is_dir() else []
    return VerifyReport(checkpoints, tuple(FilesReport.of(directory) for directory in (path, *copies)))


def accept_changes(path: Path, names: Sequence[str]) -> None:
    """List files of a run or model as they are now, and say which; the manifest's own name stands for all files.

    Raises:
        CheckpointError: there is no run or model.
        UsageError: a name is not that of a file that is or may be listed.
    """
    if not RunDirectory.is_run(path) and not (path / MANIFEST_NAME).is_file():
        RunDirectory.open(path)
    if MANIFEST_NAME in names:
        (path / MANIFEST_NAME).unlink(missing_ok=True)
        names = [name for name in RUN_FILES if (path / name).exists()]
        record(path, names, LOGS)
    listed = read_manifest(path)
    for name in names:
        if name not in (*RUN_FILES, *LOGS) and not listed.below([name]):
            known = ", ".join(name for name in (*RUN_FILES, *LOGS) if (path / name).exists())
            raise UsageError(f"{name} is no file of {path} that is verified", f"its files are {known}")
    withdraw(path, names)
    record(path, [name for name in names if name not in LOGS], [name for name in names if name in LOGS])
    for name in names:
        say(f"accepted: {path / name}" + ("" if (path / name).exists() else ", which is no longer there"))
