"""Connections that cannot hold the server up: bounded in number, and ended when a client stalls.

uvicorn ends idle connections, but waits without a limit for the head of a request, and for a client to read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from gptcli.serve.settings import ServeSettings

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
SWEEP_SECONDS = 1.0


class Connection(H11Protocol):
    """A connection of HTTP/1.1, with the times since which it makes no progress.

    Attributes:
        most: connections that may be open at once.
    """

    most = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.head_since: float | None = None
        self.stuck_since: float | None = None
        self.unwritten = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Begin to wait for a request, or refuse the connection if there are too many."""
        super().connection_made(transport)
        self.head_since = time.monotonic()
        if len(self.connections) > self.most:
            transport.write(BUSY)
            transport.close()

    def data_received(self, data: bytes) -> None:
        """Read what the client has sent."""
        super().data_received(data)
        if self.is_answering:
            self.head_since = None
        elif self.head_since is None:
            self.head_since = time.monotonic()

    def on_response_complete(self) -> None:
        """Wait for the next request, for which uvicorn has a time limit until its first byte."""
        self.head_since = None
        super().on_response_complete()

    @property
    def is_answering(self) -> bool:
        """Whether a request has been received whose answer is not complete."""
        return self.cycle is not None and not self.cycle.response_complete

    def is_stalled(self, now: float, settings: ServeSettings) -> bool:
        """Return whether the client takes too long to send the head of a request, or to read what waits for it."""
        if self.head_since is not None and now - self.head_since > settings.head_seconds:
            return True
        size = self.transport.get_write_buffer_size()
        must_read = self.flow.write_paused or (self.transport.is_closing() and size > 0)
        if not must_read or size < self.unwritten:
            self.stuck_since = None
        elif self.stuck_since is None:
            self.stuck_since = now
        self.unwritten = size
        return self.stuck_since is not None and now - self.stuck_since > settings.write_seconds


def connection_class(settings: ServeSettings) -> type[Connection]:
    """Return the class of the connections of a server with these settings."""
    return type("LimitedConnection", (Connection,), {"most": settings.max_connections})


async def end_stalled(connections: Iterable[Any], settings: ServeSettings) -> None:
    """End connections whose clients stall, until this is cancelled."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        now = time.monotonic()
        for connection in list(connections):
            if connection.is_stalled(now, settings):
                connection.transport.abort()
