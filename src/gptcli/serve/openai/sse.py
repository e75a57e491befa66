"""Server-sent events: answers that are sent while they are generated."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gptcli import strict_json
from gptcli.serve.openai.errors import ApiError
from gptcli.serve.openai.schema import Schema

DONE = b"data: [DONE]\n\n"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Keep proxies from holding events back; the second is nginx's."""


class EventStream(Response):
    """A response of events, each of which holds one chunk.

    An error before the first chunk is an answer with its status. A later one is an event with the error, and the stream
    ends without its usual last line.
    """

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[Schema, None]) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self.chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events. The generator of the chunks is closed in any case."""
        async with aclosing(self.chunks) as chunks:
            first = await anext(chunks)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send(part(event(first.json_bytes())))
            try:
                async for chunk in chunks:
                    await send(part(event(chunk.json_bytes())))
            except ApiError as error:
                await send(part(event(error_data(error)), more=False))
            except Exception:
                failed = ApiError(500, "the server has failed on this request", code="internal_error")
                await send(part(event(error_data(failed)), more=False))
                raise
            else:
                await send(part(DONE, more=False))


def event(data: bytes) -> bytes:
    """Return an event that holds data."""
    return b"data: " + data + b"\n\n"


def error_data(error: ApiError) -> bytes:
    """Return the data of an event for an error."""
    return strict_json.dumps(error.body()).encode()


def part(body: bytes, *, more: bool = True) -> dict[str, object]:
    """Return the message of ASGI for a part of a body."""
    return {"type": "http.response.body", "body": body, "more_body": more}
