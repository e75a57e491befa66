"""The HTTP server: its settings, its signals, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from gptcli.console import say
from gptcli.interruptible import in_main_thread
from gptcli.serve.connections import connection_class, end_stalled
from gptcli.serve.listener import BACKLOG
from gptcli.serve.settings import ServeSettings
from gptcli.train.signals import leave

KEEP_ALIVE_SECONDS = 30
"""Time that a connection may be idle."""


class Server(uvicorn.Server):
    """uvicorn's server; a first signal ends it after the requests under way, a second one at once."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self.settings = settings
        config = uvicorn.Config(
            app,
            http=connection_class(settings),
            ws="none",
            lifespan="off",
            loop="auto",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=round(settings.drain_seconds),
            backlog=BACKLOG,
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals in the block, which only the main thread can; uvicorn would raise them once more after it."""
        if not in_main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at the first signal; end the process at the second."""
        if self.should_exit:
            leave(sig, "second signal: leaving at once")
        self.should_exit = True

    def stop(self) -> None:
        """Stop as a signal does; called from any thread."""
        self.should_exit = True

    async def main_loop(self) -> None:
        """Run until the server is to stop."""
        sweep = asyncio.ensure_future(end_stalled(self.server_state.connections, self.settings))
        try:
            await super().main_loop()
        finally:
            if count := len(self.server_state.tasks):
                say(f"stopping: {count} requests are under way, for at most {self.settings.drain_seconds:g} s")
            sweep.cancel()
