"""Streams of generated text from an engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from gptcli.generate.requests import FinishReason
from gptcli.generate.sample import Sample, TokenText
from gptcli.serve.openai.errors import ApiError


class Advance(NamedTuple):
    """What a sample of a stream has generated since the last advance.

    number: the place of the sample in the stream.
    texts: its new texts, with their tokens.
    finish_reason: why it has ended, or None.
    """

    number: int
    texts: list[TokenText]
    finish_reason: FinishReason | None


class Stream:
    """The samples of one request of the API while they are generated: an asynchronous iterator over lists of `Advance`.

    Leaving it (`async with`) cancels the samples that have not ended. A reader that is slow gets longer lists of text:
    what waits for it is never more than what its samples generate, and nobody waits for it.
    """

    def __init__(self, samples: Sequence[Sample], seconds: float, cancel: Callable[[Stream], None]) -> None:
        self.samples, self.seconds, self.on_cancel = samples, seconds, cancel
        self.loop = asyncio.get_running_loop()
        self.deadline = self.loop.time() + seconds
        self.has_news = asyncio.Event()
        self.lock = threading.Lock()
        self.advances: dict[int, Advance] = {}
        self.error: ApiError | None = None
        self.running = set(range(len(samples)))
        """The samples whose end has not been read."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.running:
            self.on_cancel(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Advance]:
        """Return what is new, as soon as there is something.

        Raises:
            ApiError: the time is over, or the engine has failed.
        """
        if not self.running:
            raise StopAsyncIteration
        try:
            async with asyncio.timeout_at(self.deadline):
                await self.has_news.wait()
        except TimeoutError:
            raise ApiError(504, f"no complete answer within {self.seconds:g} s", code="timeout") from None
        with self.lock:
            advances, self.advances = self.advances, {}
        if self.error is None:
            self.has_news.clear()
        elif not advances:
            raise self.error
        self.running -= {advance.number for advance in advances.values() if advance.finish_reason is not None}
        return list(advances.values())

    def put(self, number: int, texts: list[TokenText], reason: FinishReason | None) -> None:
        """Add what a sample has generated; called on the engine's thread, before `wake`."""
        with self.lock:
            before = self.advances.get(number)
            self.advances[number] = Advance(number, [*before.texts, *texts] if before else texts, reason)

    def fail(self, error: ApiError) -> None:
        """End the stream with an error; called on the engine's thread, before `wake`."""
        self.error = error


def wake(streams: Collection[Stream]) -> None:
    """Tell the readers of streams that there is something new; called on the engine's thread.

    All of a loop are told by one call, since each writes to the loop's pipe and lets the loop's thread run in between.
    """
    events: dict[asyncio.AbstractEventLoop, list[asyncio.Event]] = {}
    for stream in streams:
        events.setdefault(stream.loop, []).append(stream.has_news)
    for loop, of_loop in events.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
            loop.call_soon_threadsafe(set_all, of_loop)


def set_all(events: Sequence[asyncio.Event]) -> None:
    """Set events; called on the loop's thread."""
    for event in events:
        event.set()
