"""Threads for work on texts that takes too long for the event loop: tokens, chat templates, grammars."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from gptcli.serve.openai.errors import ApiError

Result = TypeVar("Result")

THREADS = 2
MOST_WAITING = 256
"""Most functions that wait or run; further requests are answered with 429."""


class TextPool:
    """A bounded pool of threads. What it runs must end by itself within seconds."""

    def __init__(self) -> None:
        self.executor = ThreadPoolExecutor(THREADS, "text")
        self.under_way = 0

    async def run(self, function: Callable[[], Result]) -> Result:
        """Return what a function returns that is run on one of the threads.

        Raises:
            ApiError: too many functions wait.
        """
        if self.under_way >= MOST_WAITING:
            raise ApiError(
                429, "too many requests are waiting; try again in 1 s", code="queue_full", headers={"Retry-After": "1"}
            )
        self.under_way += 1
        future = asyncio.get_running_loop().run_in_executor(self.executor, function)
        future.add_done_callback(self.forget)
        return await future

    def forget(self, future: asyncio.Future[Result]) -> None:
        """Count a function as ended. One whose request was cancelled while it ran still ends by itself."""
        self.under_way -= 1

    def close(self) -> None:
        """Start no more functions."""
        self.executor.shutdown(wait=False, cancel_futures=True)
