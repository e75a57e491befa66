"""Checkpoints of a run that is still training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gptcli.checkpoint.run_directory import CheckpointInfo, RunDirectory
from gptcli.console import say
from gptcli.errors import CheckpointError, StorageError
from gptcli.session import ModelRequest, Session, open_session


class WatchedRun:
    """A run whose newest good checkpoint is wanted, again and again.

    Attributes:
        step: the step of the checkpoint that was opened last; None before the first.
    """

    def __init__(self, request: ModelRequest) -> None:
        """
        Raises:
            CheckpointError: the path of the request is not a run.
        """
        self.request, self.run = request, RunDirectory.open(Path(request.path))
        self.step: int | None = None
        self.damaged = set[Path]()
        self.is_announced = False

    def candidates(self) -> list[CheckpointInfo]:
        """Return the checkpoints that are newer than the one that was opened last, the newest first."""
        found = self.run.checkpoints()[::-1]
        if self.step is None or (
            found and found[0].step < self.step
        ):  # the training was begun again from an earlier one
            return found
        return [info for info in found if info.step > self.step]

    def newer(self) -> Session | None:
        """Open the newest good checkpoint, if it is newer than the last; a damaged one is named once and left alone.

        A checkpoint appears under its name when it is whole, and every byte is compared with its manifest.
        """
        found = self.candidates()
        if self.step is None and not found and not self.is_announced:
            self.is_announced = True
            say(f"{self.run.path} has no checkpoint yet; waiting for its first")
        for info in found:
            if info.path in self.damaged:
                continue
            try:
                session = open_session(replace(self.request, checkpoint=str(info.step)))
            except (CheckpointError, StorageError) as error:
                if info.path.exists():  # otherwise the training has removed it meanwhile
                    self.damaged.add(info.path)
                    say(f"warning: {error}; this checkpoint is not served")
                continue
            self.step = info.step
            return session
        return None
