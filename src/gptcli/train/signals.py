"""Asking a run to stop: a first signal is noted and answered between two steps, a second one leaves at once."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Any, Self

from gptcli.errors import Stopped

STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class StopRequest:
    """While entered, holds the number of the first stop signal received in `signum` (None: go on).

    While `nothing_to_save` is true there is no step to lose, and the first signal raises Stopped wherever it arrives.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.nothing_to_save = True

    def __enter__(self) -> Self:
        self.previous: dict[int, Any] = {number: signal.signal(number, self.receive) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def receive(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            # Checkpoints appear by rename, so leaving in the middle of anything leaves the last one whole.
            os.write(sys.stderr.fileno(), b"\ngptcli: second signal: leaving without saving\n")
            os._exit(128 + signum)
        self.signum = signum
        if self.nothing_to_save:
            name = signal.Signals(signum).name
            raise Stopped(f"stopped by {name}; nothing was lost", signum, "a run that has begun goes on with --resume")

    def is_wanted(self) -> bool:
        return self.signum is not None
