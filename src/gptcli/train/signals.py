"""Requests to stop a run: a first signal is handled as suits the phase of the run, a second one ends it at once."""

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
STATUS_SIGNALS = tuple(getattr(signal, name) for name in ("SIGUSR2", "SIGINFO") if hasattr(signal, name))
"""Signals that ask how the run stands. On macOS Ctrl-T sends SIGINFO."""

REPEAT_SECONDS = 5.0
"""The seconds within which a second signal may be a repetition of the first one."""


Response = Literal["raise", "leave", "remember"]


class StopRequest:
    """While entered, keeps the number of the first stop signal in `signum` (None until there is one).

    `answer` is the further effect of the first signal:

        "raise"     Stopped is raised wherever the signal arrives: there is no step to lose
        "leave"     the process ends: there is no step to lose, but the compiler may run, whose C++ allows no exception
        "remember"  none: the trainer reads `signum` between two steps

    A signal that asks how the run stands only sets `is_status_wanted`.
    """

    def __init__(self, is_repeated: bool = False) -> None:
        """
        Args:
            is_repeated: whether one request may arrive as several signals, from the terminal and from a launcher.
        """
        self.signum: int | None = None
        self.is_repeated, self.received = is_repeated, 0.0
        self.answer: Response = "raise"
        self.is_status_wanted = False

    def __enter__(self) -> Self:
        self.previous: dict[int, Any] = {number: signal.signal(number, self.receive) for number in STOP_SIGNALS}
        self.previous |= {number: signal.signal(number, self.note) for number in STATUS_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def receive(self, signum: int, frame: FrameType | None) -> None:
        """Handle a stop signal."""
        if self.signum is not None:
            if self.is_repeated and time.monotonic() - self.received < REPEAT_SECONDS:
                return
            # Checkpoints appear by a rename, so the last one stays whole wherever the process ends.
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

    def note(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal that asks how the run stands."""
        self.is_status_wanted = True

    def respond(self, answer: Response) -> None:
        """Choose what the first signal does from now on."""
        self.answer = answer


def leave(signum: int, words: str) -> NoReturn:
    """Print a line and end the process without running any more Python."""
    if not Progress.is_silent:
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), f"\ngptcli: {words}\n".encode())
    os._exit(128 + signum)
