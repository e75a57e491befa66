"""The outermost layer of the application: what must hold for every request before a route sees it.

It answers errors in OpenAI's form, counts and logs requests, lets in those that may, receives their bodies within
limits, and ends a request whose client has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections.abc import AsyncIterator

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gptcli import strict_json
from gptcli.console import say
from gptcli.serve.access import AccessPolicy
from gptcli.serve.metrics import HttpMetrics
from gptcli.serve.openai.errors import ApiError
from gptcli.serve.settings import ServeSettings

CLIENT_CLOSED = 499
"""The status by which requests are counted whose client has gone (nginx's)."""
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"))
LONGEST_PATH = 200
"""Characters of a path in the log."""
LINGER_SECONDS = 1.0
"""Time in which the rest of a body that is refused is read, so that the client gets to read why."""
GRACE_SECONDS = 5.0
"""Time that a route gets to answer that its own time is over."""


class Disconnected(Exception):
    """The client has closed the connection."""


def error_response(error: ApiError) -> Response:
    """Return the answer for an error."""
    return Response(strict_json.dumps(error.body()), error.status, error.headers, "application/json")


def as_api_error(error: HTTPException) -> ApiError:
    """Return an error of the router (404, 405) in OpenAI's form."""
    words = {404: "there is no such path here", 405: "this path has no such method"}
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    message = words.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, code=code, headers=error.headers)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer an error of the router."""
    assert isinstance(error, HTTPException)
    return error_response(as_api_error(error))


async def on_api_error(request: Request, error: Exception) -> Response:
    """Answer an error of a route."""
    assert isinstance(error, ApiError)
    return error_response(error)


class Exchange:
    """One request and what has been answered: the status, and whether the answer is complete."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope, self.forward = scope, send
        self.began = time.monotonic()
        self.status = 0
        self.is_complete = False
        self.body = bytearray()

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.is_complete = not message.get("more_body", False)
        await self.forward(message)
        if not self.is_complete:
            await asyncio.sleep(0)  # after a disconnection uvicorn returns at once, and no other task would ever run

    @property
    def route(self) -> str:
        """The route's path with the names of its parameters, which is the same for all requests of a route."""
        return str(getattr(self.scope.get("route"), "path", "other"))


class Guard:
    """An ASGI application that passes on to `app` what `settings` and `policy` allow."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, policy: AccessPolicy, metrics: HttpMetrics) -> None:
        self.app, self.settings, self.policy, self.metrics = app, settings, policy, metrics
        self.buffered_bytes = 0
        self.log = {"none": ignore, "requests": log_request, "prompts": log_body}[settings.log]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no WebSockets: the server closes the connection
        exchange = Exchange(scope, send)
        self.metrics.under_way += 1
        try:
            await self.answer(exchange, receive)
        finally:
            self.metrics.under_way -= 1
            method = scope["method"] if scope["method"] in METHODS else "other"
            status = exchange.status if exchange.is_complete or not exchange.status else CLIENT_CLOSED
            seconds = time.monotonic() - exchange.began
            self.metrics.observe(exchange.route, method, status or CLIENT_CLOSED, seconds)
            self.log(exchange, status or CLIENT_CLOSED, seconds)

    async def answer(self, exchange: Exchange, receive: Receive) -> None:
        """Let a request in and pass it on; answer any error."""
        scope = exchange.scope
        try:
            headers = Headers(scope=scope)
            self.policy.check(scope["path"], scope["method"], headers)
            require_json(scope["method"], headers)
            try:
                async for chunk in self.chunks(headers, receive):
                    exchange.body += chunk
                await self.run(exchange, receive)
            finally:
                self.buffered_bytes -= len(exchange.body)
        except ApiError as error:
            await fail(exchange, error)
        except Disconnected:
            pass
        except Exception as error:  # a bug, whose traceback is for the one who runs the server
            traceback.print_exception(error)
            await fail(exchange, ApiError(500, "the server has failed on this request", code="internal_error"))

    async def chunks(self, headers: Headers, receive: Receive) -> AsyncIterator[bytes]:
        """Yield the parts of the body, each of which is counted as buffered.

        Raises:
            ApiError: it is too long or too slow, or too many bodies are being received.
            Disconnected: the client has gone.
        """
        most, size = self.settings.max_body_bytes, 0
        try:
            async with asyncio.timeout(self.settings.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Disconnected
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    if max(size, declared_length(headers)) > most:
                        await discard(receive, message)
                        raise closing(413, f"the body is longer than {most:,} bytes", "body_too_large")
                    if self.buffered_bytes + len(chunk) > self.settings.max_buffered_bytes:
                        await discard(receive, message)
                        raise closing(429, "too many large requests at once; try again in 1 s", "too_many_bytes")
                    self.buffered_bytes += len(chunk)
                    yield chunk
                    if not message.get("more_body", False):
                        return
        except TimeoutError:
            raise closing(408, f"the body did not arrive within {self.settings.body_seconds:g} s", "timeout") from None

    async def run(self, exchange: Exchange, receive: Receive) -> None:
        """Pass a request on, and cancel it when its client has gone or its time is over.

        Raises:
            ApiError: the time is over.
            Disconnected: the client has gone.
        """
        has_gone, body = asyncio.Event(), [bytes(exchange.body)]

        async def replay() -> Message:
            if body:
                return {"type": "http.request", "body": body.pop(), "more_body": False}
            await has_gone.wait()
            return {"type": "http.disconnect"}

        task = asyncio.ensure_future(self.app(exchange.scope, replay, exchange.send))
        watcher = asyncio.ensure_future(receive())  # after the body nothing but the disconnection is received
        try:
            seconds = self.settings.request_seconds + GRACE_SECONDS
            await asyncio.wait((task, watcher), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and watcher.done() and not exchange.is_complete:
                raise Disconnected
            if not task.done() and not watcher.done():
                raise ApiError(504, f"no complete answer within {self.settings.request_seconds:g} s", code="timeout")
            await task
        finally:
            has_gone.set()
            watcher.cancel()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def fail(exchange: Exchange, error: ApiError) -> None:
    """Answer an error; after the beginning of another answer the connection is closed instead.

    Raises:
        ConnectionAbortedError: another answer has begun.
    """
    if not exchange.status:
        await error_response(error)(exchange.scope, no_message, exchange.send)
    elif not exchange.is_complete:
        raise ConnectionAbortedError(error.message)


async def no_message() -> Message:
    """Return that nothing is received any more."""
    return {"type": "http.disconnect"}


async def discard(receive: Receive, message: Message) -> None:
    """Read the rest of a body for a moment."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while message.get("more_body", False):
                message = await receive()


def declared_length(headers: Headers) -> int:
    """Return the Content-Length of a request; 0 without one."""
    length = headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdecimal() else 0


def closing(status: int, message: str, code: str) -> ApiError:
    """Return an error after which the connection is closed, since a part of the body may not have been read."""
    headers = {"Connection": "close"} | ({"Retry-After": "1"} if status == 429 else {})
    return ApiError(status, message, code=code, headers=headers)


def require_json(method: str, headers: Headers) -> None:
    """Require that a body is declared as JSON, which no web page can send to another origin without being allowed.

    Raises:
        ApiError: it is not.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if method == "POST" and kind != "application/json":
        raise ApiError(415, "send JSON with the header 'Content-Type: application/json'", code="unsupported_media_type")


def ignore(exchange: Exchange, status: int, seconds: float) -> None:
    """Write nothing."""


def log_request(exchange: Exchange, status: int, seconds: float) -> None:
    """Write one line about a request that holds nothing of its content."""
    scope = exchange.scope
    client = scope["client"][0] if scope.get("client") else "-"
    path = scope.get("raw_path", b"").decode("ascii", "replace")[:LONGEST_PATH]
    say(f"{client} {scope['method']} {path} {status} {seconds:.3f} s")


def log_body(exchange: Exchange, status: int, seconds: float) -> None:
    """Write one line about a request, and its body."""
    log_request(exchange, status, seconds)
    if exchange.body:
        say(f"  {exchange.body.decode(errors='replace')}")
