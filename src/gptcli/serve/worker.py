"""The thread that runs an engine. Requests join and leave between two of its steps."""

from __future__ import annotations

import asyncio
import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from gptcli.console import say_error
from gptcli.errors import GptcliError, first_line
from gptcli.generate.engine import Engine, EngineStatistics
from gptcli.generate.requests import Request
from gptcli.generate.sample import Sample
from gptcli.serve.metrics import Histogram
from gptcli.serve.openai.errors import ApiError
from gptcli.serve.stream import Stream, wake

Result = TypeVar("Result")

LONGEST_WAIT = 60
"""Most seconds after which a client is asked to try again."""
MOST_CALLS = 64
"""Most calls of `EngineWorker.call` that wait."""


class WorkerLimits(NamedTuple):
    """How much a worker takes on.

    slots: samples that are generated side by side.
    queue: samples that wait for a slot.
    seconds: the time in which a stream must end.
    """

    slots: int
    queue: int
    seconds: float


class QueueFull(ApiError):
    """More requests wait than are allowed."""

    def __init__(self, seconds: int) -> None:
        super().__init__(
            429,
            f"too many requests are waiting; try again in {seconds} s",
            code="queue_full",
            headers={"Retry-After": str(seconds)},
        )


class Unavailable(ApiError):
    """The model cannot answer: it is loading, its engine has failed, or the server is stopping."""

    def __init__(self, message: str, seconds: int = 5) -> None:
        super().__init__(503, message, code="model_unavailable", headers={"Retry-After": str(seconds)})


class SubmittedSample:
    """A request of the engine, with its sample's place in a stream and the times of its tokens."""

    def __init__(self, sample: Sample, number: int, stream: Stream) -> None:
        self.sample, self.number, self.stream = sample, number, stream
        self.began = self.last = time.monotonic()
        self.count = 0


class EngineWorker:
    """One engine and its thread. All of its methods may be called from any thread.

    Attributes:
        first_token_seconds: times from the arrival of a request to its first token.
        token_seconds: times between two tokens of a request.
    """

    def __init__(self, engine: Engine, limits: WorkerLimits) -> None:
        self.engine, self.limits = engine, limits
        self.first_token_seconds, self.token_seconds = Histogram(), Histogram()
        self.error: BaseException | None = None
        self.changed = threading.Condition()
        self.commands: deque[Callable[[], object]] = deque()
        self.calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self.entries: dict[Request, SubmittedSample] = {}
        self.under_way = 0
        self.is_retired = self.is_closed = False
        self.has_ended = threading.Event()
        # Not kept, so that nothing of the model outlives its last user.
        threading.Thread(target=self.run, name="engine", daemon=True).start()

    @property
    def is_alive(self) -> bool:
        """Whether requests are accepted."""
        return self.error is None and not self.is_closed

    @property
    def waiting(self) -> int:
        """Samples that wait for a slot."""
        return max(0, self.under_way - self.limits.slots)

    @property
    def statistics(self) -> EngineStatistics:
        """What the engine has done, and what it holds."""
        return self.engine.statistics

    async def submit(self, samples: Sequence[Sample]) -> Stream:
        """Start to generate samples; the stream that is returned must be entered (`async with`), and ends them.

        Raises:
            QueueFull: too many samples wait.
            Unavailable: the engine has failed or is closed.
        """
        stream = Stream(samples, self.limits.seconds, self.cancel)
        with self.changed:
            self.require_alive()
            if self.under_way + len(samples) > self.limits.slots + self.limits.queue:
                raise QueueFull(self.retry_after())
            self.under_way += len(samples)
            for number, sample in enumerate(samples):
                self.entries[sample.request] = SubmittedSample(sample, number, stream)
            self.commands.append(lambda: self.add(samples))
            self.changed.notify()
        return stream

    async def call(self, function: Callable[[], Result]) -> Result:
        """Return what a function of the model returns, which is run on the engine's thread between two steps.

        Raises:
            QueueFull: too many calls wait.
            Unavailable: the engine has failed or is closed.
        """
        future: Future[Result] = Future()
        with self.changed:
            self.require_alive()
            if len(self.calls) >= MOST_CALLS:
                raise QueueFull(self.retry_after())
            self.calls.append((future, function))
            self.changed.notify()
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise ApiError(504, f"no answer within {self.limits.seconds:g} s", code="timeout") from None

    def require_alive(self) -> None:
        """Raise Unavailable if the engine takes no more requests."""
        if self.error is not None:
            raise Unavailable("the model's engine has failed; the server must be restarted")
        if not self.is_alive:
            raise Unavailable("the model is being replaced or the server is stopping")

    def retry_after(self) -> int:
        """Return the seconds in which the samples that wait now will probably have a slot."""
        seconds = self.first_token_seconds.sum / max(1, self.first_token_seconds.count)
        return min(LONGEST_WAIT, max(1, math.ceil(seconds)))

    def cancel(self, stream: Stream) -> None:
        """End those samples of a stream that still run, before the engine's next step."""
        with self.changed:
            self.commands.append(lambda: self.end(stream))
            self.changed.notify()

    def retire(self) -> None:
        """End the thread as soon as no request is under way."""
        with self.changed:
            self.is_retired = True
            self.changed.notify()

    def close(self) -> None:
        """End the thread after the step under way, and all streams with an error."""
        with self.changed:
            self.is_closed = True
            self.changed.notify()

    def run(self) -> None:
        """Step the engine while there are requests; what the thread does."""
        try:
            while self.work():
                if not self.engine.is_idle:
                    self.report(self.engine.step())
        except BaseException as error:
            self.error = error
            say_error(f"the engine has failed: {first_line(error)}")
            if not isinstance(error, GptcliError):
                traceback.print_exception(error)
        finally:
            self.finish()

    def work(self) -> bool:
        """Wait until there is something to do, and do what was asked for meanwhile; return whether to go on."""
        with self.changed:
            while self.engine.is_idle and not (self.commands or self.calls or self.is_closed):
                if self.is_retired:
                    return False
                self.changed.wait()
            commands = list(self.commands)
            self.commands.clear()
            call = self.calls.popleft() if self.calls and not self.is_closed else None
        for command in commands:
            command()
        if call is not None:
            answer(*call)
        return not self.is_closed

    def add(self, samples: Sequence[Sample]) -> None:
        """Give the engine the samples of a stream that has not ended meanwhile."""
        for sample in samples:
            if sample.request in self.entries:
                self.engine.add(sample.request)

    def end(self, stream: Stream) -> None:
        """Cancel what still runs of a stream."""
        for sample in stream.samples:
            if sample.request in self.entries:
                self.engine.cancel(sample.request)
                self.remove(sample.request)

    def remove(self, request: Request) -> SubmittedSample:
        """Forget a request that has ended, and return its entry."""
        with self.changed:
            self.under_way -= 1
            return self.entries.pop(request)

    def report(self, advanced: Sequence[Request]) -> None:
        """Put what a step has generated into the streams, and wake their readers."""
        now = time.monotonic()
        streams = dict[Stream, None]()
        for request in advanced:
            entry = self.entries.get(request)
            if entry is None:
                continue
            self.measure(entry, request.count, now)
            reason = request.finish_reason
            if reason is not None:
                self.remove(request)
            entry.stream.put(entry.number, entry.sample.take(), reason)
            streams[entry.stream] = None
        wake(streams)

    def measure(self, entry: SubmittedSample, count: int, now: float) -> None:
        """Count the times of an entry's new tokens."""
        new = count - entry.count
        if new <= 0:
            return
        if entry.count == 0:
            self.first_token_seconds.observe(now - entry.began)
            new -= 1
        if new:
            self.token_seconds.observe((now - entry.last) / new, new)
        entry.count, entry.last = count, now

    def finish(self) -> None:
        """End all streams and calls with an error, and free the engine's memory."""
        with self.changed:
            self.is_closed = True
            streams = {entry.stream for entry in self.entries.values()}
            futures = [future for future, _ in self.calls]
            for waiting in (self.entries, self.commands, self.calls):
                waiting.clear()
            self.under_way = 0
        error = Unavailable("the model's engine has failed" if self.error else "the server is stopping")
        for future in futures:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
        for stream in streams:
            stream.fail(error)
        wake(streams)
        self.engine.close()
        self.has_ended.set()


def answer(future: Future[Result], function: Callable[[], Result]) -> None:
    """Run a function for whoever waits for its result, unless nobody does any more."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
