"""What `gptcli checkpoint` tells of a run's checkpoints. Reads every byte of them, no tensor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptcli.checkpoint.run import CheckpointInfo, RunDirectory
from gptcli.console import size
from gptcli.errors import CheckpointError


@dataclass(frozen=True)
class CheckpointReport:
    """Every checkpoint of a run with its damage, None if it is whole."""

    run: RunDirectory
    checkpoints: tuple[tuple[CheckpointInfo, CheckpointError | None], ...]

    @property
    def best_step(self) -> int | None:
        """The step of the checkpoint that `generate` and `eval` take."""
        best = self.run.best()
        return best and best.step

    def as_dict(self) -> dict[str, Any]:
        """{"run", "checkpoints": [{"step", "is_best", "path", "val_loss", "bytes", "verified", "damage"}]} for JSON."""
        entries = [
            {
                "step": info.step,
                "is_best": info.step == self.best_step,
                "path": str(info.path),
                "val_loss": info.val_loss,
                "bytes": info.size_bytes(),
                "verified": damage is None,
                "damage": None if damage is None else str(damage),
            }
            for info, damage in self.checkpoints
        ]
        return {"run": str(self.run.path), "checkpoints": entries}

    def table(self) -> str:
        """One line a checkpoint, for people."""
        lines = [f"{'step':>10}  {'val loss':>9}  {'size':>8}  state"]
        for info, damage in self.checkpoints:
            loss = "-" if info.val_loss is None else f"{info.val_loss:.4f}"
            state = "whole" if damage is None else str(damage)
            state += ", best" if info.step == self.best_step else ""
            lines.append(f"{info.step:>10,}  {loss:>9}  {size(info.size_bytes()):>8}  {state}")
        return "\n".join(lines) if self.checkpoints else f"{self.run.path} has no checkpoints yet"

    def raise_if_damaged(self) -> None:
        """CheckpointError that counts the damaged checkpoints and names the first damaged file."""
        damaged = [damage for _, damage in self.checkpoints if damage is not None]
        if damaged:
            count = f"{len(damaged)} of {len(self.checkpoints)} checkpoints damaged"
            raise CheckpointError(f"{count}: {damaged[0]}")


def report_checkpoints(path: Path) -> CheckpointReport:
    """Verify every checkpoint of the run at `path`.

    Raises:
        CheckpointError: there is no run.
    """
    run = RunDirectory.open(path)
    return CheckpointReport(run, tuple((info, info.damage()) for info in run.checkpoints()))
