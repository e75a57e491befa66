"""Long calls into compiled code, during which Python could not run its signal handlers.

Python runs signal handlers in the main thread, between two of its instructions. A call that stays in compiled code for
minutes therefore delays both Ctrl-C and SIGTERM. In a separate thread it leaves the main thread free to run the
handler; an exception of the handler is raised here, and the thread ends by itself or with the process.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Generic, NoReturn, TypeVar

from gptcli.errors import GptcliError

Result = TypeVar("Result")

POLL_SECONDS = 0.2
"""Seconds between the main thread's checks for signals while it waits: on Windows a lock cannot be interrupted."""


class CallThread(threading.Thread, Generic[Result]):
    """One call in a daemon thread, which starts at once; `result()` waits for it."""

    def __init__(self, function: Callable[[], Result]) -> None:
        super().__init__(name=f"call of {getattr(function, '__name__', function)}", daemon=True)
        self.function = function
        self.values: list[Result] = []
        self.error: BaseException | None = None
        self.began = time.monotonic()
        self.start()

    def run(self) -> None:
        """Make the call and keep its result or its exception."""
        try:
            self.values.append(self.function())
        except BaseException as error:
            self.error = error

    def result(self, on_wait: Callable[[float], None] = lambda seconds: None) -> Result:
        """Return the value of the call, or raise its exception; meanwhile call `on_wait` with the seconds so far."""
        while self.is_alive():
            self.join(POLL_SECONDS)
            on_wait(time.monotonic() - self.began)
        if self.error is not None:
            raise self.error
        return self.values[0]


def in_main_thread() -> bool:
    """Return whether this is the main thread."""
    return threading.current_thread() is threading.main_thread()


def call_interruptibly(function: Callable[[], Result]) -> Result:
    """Return `function()`. An exception of a signal handler is raised at once, and the call's result is then lost."""
    return CallThread(function).result() if in_main_thread() else function()


def exit_process(code: int) -> NoReturn:
    """End the process as sys.exit does, or at once if a call is still running.

    A thread that returns from compiled code while the interpreter shuts down would abort the process.
    """
    if any(isinstance(thread, CallThread) for thread in threading.enumerate()):
        with contextlib.suppress(OSError, GptcliError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
