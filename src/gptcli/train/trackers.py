"""Where metrics go besides metrics.jsonl. Each tracker is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from gptcli.errors import missing_extra


class Tracker(Protocol):
    def log(self, step: int, metrics: Mapping[str, float | int | None]) -> None: ...

    def close(self) -> None: ...


class TensorBoardTracker:
    """Event files in `run/tensorboard`."""

    def __init__(self, run: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_extra("tensorboard", "tensorboard", "train.trackers = ['tensorboard']") from error
        self.writer = SummaryWriter(run / "tensorboard")

    def log(self, step: int, metrics: Mapping[str, float | int | None]) -> None:
        for name, value in metrics.items():
            if value is not None and name != "step":
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


def open_trackers(names: Sequence[str], run: Path) -> list[Tracker]:
    """The trackers of `train.trackers`, writing below the run directory `run`."""
    return [TensorBoardTracker(run) for name in names if name == "tensorboard"]
