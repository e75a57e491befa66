"""Long calls into libraries that run without the interpreter, and so keep Python from answering a signal.

Python runs signal handlers in the main thread, between two of its instructions. A call that stays in compiled code for
minutes therefore hears neither Ctrl-C nor SIGTERM. Made in a thread of its own, it leaves the main thread free to
answer; what the handler raises is raised here, and the thread is left to end by itself or with the process.
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
"""Seconds after which a waiting main thread checks for signals: on Windows a lock cannot be interrupted."""


class CallThread(threading.Thread, Generic[Result]):
    """One call in a daemon thread, begun at once; `result()` waits for it."""

    def __init__(self, function: Callable[[], Result]) -> None:
        super().__init__(name=f"call of {getattr(function, '__name__', function)}", daemon=True)
        self.function = function
        self.value: Result | None = None
        self.error: BaseException | None = None
        self.began = time.monotonic()
        self.start()

    def run(self) -> None:
        try:
            self.value = self.function()
        except BaseException as error:
            self.error = error

    def result(self, on_wait: Callable[[float], None] = lambda seconds: None) -> Result:
        """The return value of the call, or its exception; meanwhile `on_wait` is called with the seconds so far."""
        while self.is_alive():
            self.join(POLL_SECONDS)
            on_wait(time.monotonic() - self.began)
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]


def in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def call_interruptibly(function: Callable[[], Result]) -> Result:
    """`function()`; what a signal handler raises meanwhile is raised at once, and the call's result is then lost."""
    return CallThread(function).result() if in_main_thread() else function()


def exit_process(code: int) -> NoReturn:
    """End the process as sys.exit does, or at once if a call is still running.

    A thread that returns from compiled code while the interpreter is being taken down would abort the process.
    """
    if any(isinstance(thread, CallThread) for thread in threading.enumerate()):
        with contextlib.suppress(OSError, GptcliError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
