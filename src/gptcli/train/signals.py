"""Asking a run to stop: a first signal is answered as suits the phase of the run, a second one leaves at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from types import FrameType, TracebackType
from typing import Any, Literal, NoReturn, Self

from gptcli.console import Progress
from gptcli.errors import Stopped

STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))

REPEAT_SECONDS = 5.0
"""Within so many seconds a second signal may be the first one again."""


Response = Literal["raise", "leave", "remember"]


class StopRequest:
    """While entered, holds the number of the first stop signal received in `signum` (None: go on).

    `answer` is what the first signal does beyond that:

        "raise"     Stopped, wherever it arrives: there is no step to lose
        "leave"     the process ends: no step to lose either, but the compiler is at work, whose C++ bears no exception
        "remember"  nothing: it is asked for between two steps
    """

    def __init__(self, is_repeated: bool = False) -> None:
        """`is_repeated`: one wish to stop may arrive as several signals, from the terminal and from a launcher."""
        self.signum: int | None = None
        self.is_repeated, self.received = is_repeated, 0.0
        self.answer: Response = "raise"

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
            if self.is_repeated and time.monotonic() - self.received < REPEAT_SECONDS:
                return
            # Checkpoints appear by rename, so leaving in the middle of anything leaves the last one whole.
            leave(signum, "second signal: leaving without saving")
        self.signum, self.received = signum, time.monotonic()
        if self.answer != "remember":
            stopped = Stopped(
                f"stopped by {signal.Signals(signum).name}; nothing was lost",
                signum,
                "a run that has begun goes on with --resume",
            )
            if self.answer == "leave":
                leave(signum, str(stopped))
            raise stopped

    def respond(self, answer: Response) -> None:
        """Choose what the first signal does from now on."""
        self.answer = answer


def leave(signum: int, words: str) -> NoReturn:
    """End the process without another line of Python."""
    if not Progress.is_silent:
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), f"\ngptcli: {words}\n".encode())
    os._exit(128 + signum)
