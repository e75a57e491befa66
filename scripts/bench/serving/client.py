"""A client of `/v1/completions` over a plain socket, which times every piece of an answer.

It can read slowly, or leave before the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gptcli import strict_json

HOST, PATH = "127.0.0.1", "/v1/completions"
READ_BYTES = 1 << 16
SMALL_BUFFER = 2048
"""Bytes that the socket of a slow client takes in before it is read."""
ANSWER_SECONDS = 600
"""Time after which an answer is given up."""

Headers = dict[str, str]


@dataclass(frozen=True)
class Manner:
    """How a client reads: it waits `pause` seconds between two pieces, and closes the connection after `leaves_after`.

    A client that leaves after 0 pieces does so as soon as it has sent its request.
    """

    pause: float = 0.0
    leaves_after: int | None = None


PROMPT = Manner()


@dataclass
class Answer:
    """What a server answered, and when. It grows while the answer arrives."""

    sent: float = 0.0
    status: int = 0
    """0 if there was no answer."""
    text: str = ""
    finish_reason: str | None = None
    error: str | None = None
    retry_after: float = 1.0
    times: list[float] = field(default_factory=list)
    """The arrival of each piece of text."""
    usage: dict[str, Any] | None = None
    has_left: bool = False
    """Whether the client closed the connection before the end."""
    ended: float = 0.0

    @property
    def is_whole(self) -> bool:
        """Whether it came to its end without an error."""
        return self.status == 200 and self.error is None and self.finish_reason is not None

    @property
    def tokens(self) -> int:
        """Generated tokens: as the server counted them, or the pieces if it does not."""
        return len(self.times) if self.usage is None else self.usage["completion_tokens"]

    @property
    def first_seconds(self) -> float:
        """Time from the request to the first piece of text."""
        return self.times[0] - self.sent

    def take(self, content: Mapping[str, Any]) -> None:
        """Add a whole answer, or a chunk of one."""
        if content.get("error"):
            found = content["error"]
            self.error = str(found.get("message") if isinstance(found, dict) else found)
        self.usage = content.get("usage") or self.usage
        for choice in content.get("choices", ()):
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            if choice.get("text"):
                self.text += choice["text"]
                self.times.append(time.perf_counter())


async def ask(port: int, body: Mapping[str, Any], manner: Manner = PROMPT, answer: Answer | None = None) -> Answer:
    """Send a request and return the answer; whatever goes wrong is its `error`.

    Args:
        answer: an empty one to fill, for whoever watches it grow.
    """
    answer = answer or Answer()
    answer.sent = time.perf_counter()
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await exchange(port, body, manner, answer)
    except (OSError, EOFError, ValueError, TimeoutError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    answer.ended = time.perf_counter()
    return answer


async def exchange(port: int, body: Mapping[str, Any], manner: Manner, answer: Answer) -> None:
    """Send a request and read its answer, up to where the client leaves."""
    reader, writer = await connect(port, manner)
    try:
        writer.write(request_bytes(body))
        await writer.drain()
        if manner.leaves_after == 0:
            answer.has_left = True
            return
        answer.status, headers = await read_head(reader)
        answer.retry_after = float(headers.get("retry-after", answer.retry_after))
        async for content in contents(reader, headers):
            answer.take(content)
            if manner.leaves_after is not None and len(answer.times) >= manner.leaves_after and answer.status == 200:
                answer.has_left = True
                return
            if manner.pause:
                await asyncio.sleep(manner.pause)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def connect(port: int, manner: Manner) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection; that of a slow client holds little of what it has not read."""
    if not manner.pause:
        return await asyncio.open_connection(HOST, port)
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    slow.setblocking(False)
    await asyncio.get_running_loop().sock_connect(slow, (HOST, port))
    return await asyncio.open_connection(sock=slow, limit=SMALL_BUFFER)


def request_bytes(body: Mapping[str, Any]) -> bytes:
    """Return a request as it is sent."""
    content = strict_json.dumps(body).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def read_head(reader: asyncio.StreamReader) -> tuple[int, Headers]:
    """Return the status and the headers of an answer.

    Raises:
        EOFError: the connection was closed before.
    """
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines[1:] if line)
    return int(lines[0].split()[1]), {name.strip().lower(): value.strip() for name, _, value in fields}


async def contents(reader: asyncio.StreamReader, headers: Headers) -> AsyncIterator[dict[str, Any]]:
    """Yield the JSON object of an answer, or those of its events as they arrive."""
    if not headers.get("content-type", "").startswith("text/event-stream"):
        whole = b"".join([piece async for piece in pieces(reader, headers)])
        found = strict_json.parse(whole)
        yield found if isinstance(found, dict) else {"error": str(found)}
        return
    rest = b""
    async for piece in pieces(reader, headers):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            data = line.strip().removeprefix(b"data:").strip()
            if line.startswith(b"data:") and data != b"[DONE]":
                yield strict_json.parse(data)


async def pieces(reader: asyncio.StreamReader, headers: Headers) -> AsyncIterator[bytes]:
    """Yield the body of an answer as it arrives.

    Raises:
        EOFError: the connection was closed before the end.
    """
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline() or b"?", 16):
            yield (await reader.readexactly(size + 2))[:-2]
    elif "content-length" in headers:
        yield await reader.readexactly(int(headers["content-length"]))
    else:
        while piece := await reader.read(READ_BYTES):
            yield piece
