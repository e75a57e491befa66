"""Requests that nobody sends in good faith, over a real socket: each is answered or ended in time, the server goes on
answering, and its memory stays.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from served_process import ServedProcess, served_process, write_chat_model

MOST_SECONDS = 12.0
"""In which a request must be answered or its connection ended."""
MOST_GROWTH = 300 * 2**20
"""Bytes by which all of them together may let the process grow."""
LIMITS: dict[str, Any] = {
    "head_seconds": 1.0,
    "body_seconds": 1.0,
    "write_seconds": 1.0,
    "request_seconds": 5.0,
    "max_connections": 100,
    "slots": 4,
    "queue": 16,
    "max_samples": 16,
    "log": "none",
}
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
REFUSED = range(400, 500)
ENDED = 0
"""The connection was ended without an answer."""

Talk = Callable[[socket.socket], None]


class Hostile(NamedTuple):
    """A request. `talk` sends it; `statuses` are those of a right answer, 0 if the connection may be ended."""

    name: str
    talk: Talk
    statuses: frozenset[int]


@dataclass
class HostileRequests:
    """Counts of a campaign, and what went wrong in words."""

    trials: int = 0
    most_seconds: float = 0.0
    growth: int = 0
    failures: list[str] = field(default_factory=list)


def raw(*parts: bytes) -> Talk:
    def talk(connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(part)

    return talk


def head(method: str, path: str, headers: Mapping[str, object] | None = None) -> bytes:
    fields = {"Host": "localhost", "Connection": "close", **(headers or {})}
    return (
        f"{method} {path} HTTP/1.1\r\n".encode()
        + b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in fields.items())
        + b"\r\n"
    )


def post(path: str, body: bytes, headers: Mapping[str, object] | None = None) -> Talk:
    fields = {"Content-Type": "application/json", "Content-Length": len(body), **(headers or {})}
    return raw(head("POST", path, fields), body)


def get(path: str, headers: Mapping[str, object] | None = None, method: str = "GET") -> Talk:
    return raw(head(method, path, headers))


def chat(**fields: Any) -> Talk:
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, **fields}
    return post(CHAT, json.dumps(body).encode())


def complete(**fields: Any) -> Talk:
    return post(COMPLETIONS, json.dumps({"prompt": "Hello", "max_tokens": 4, **fields}).encode())


def schema(value: Any) -> Talk:
    return chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": value}})


def large_body(connection: socket.socket) -> None:
    raw(head("POST", CHAT, {"Content-Type": "application/json", "Content-Length": 2**26}))(connection)
    for _ in range(2**10):
        connection.sendall(b"[" * 2**16)


def dripping(start: bytes, piece: bytes, pause: float) -> Talk:
    """Send a start at once and then a piece after every pause, for ever."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(start)
        end = time.monotonic() + MOST_SECONDS
        while time.monotonic() < end:
            connection.sendall(piece)
            time.sleep(pause)

    return talk


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        value = {"type": "object", "properties": {"a": value}, "required": ["a"]}
    return value


def doubling(depth: int) -> dict[str, Any]:
    """A schema whose definitions each mention the one before twice, so that it is 2^depth long in full."""
    definitions: dict[str, Any] = {"d0": {"type": "string"}}
    for n in range(1, depth):
        inner = {"$ref": f"#/$defs/d{n - 1}"}
        definitions[f"d{n}"] = {"type": "object", "properties": {"a": inner, "b": inner}, "required": ["a", "b"]}
    return {"$defs": definitions, "$ref": f"#/$defs/d{depth - 1}"}


def silent_stream(connection: socket.socket) -> None:
    """Ask for a stream, and read nothing of it."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    chat(stream=True, max_tokens=200, logprobs=True, top_logprobs=20)(connection)
    time.sleep(2)


def pipelined(connection: socket.socket) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    connection.sendall(request * 2000 + head("GET", "/health"))


def many_connections(connection: socket.socket) -> None:
    """Open more connections than are allowed, and then ask by this one."""
    port = connection.getpeername()[1]
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_connection(("127.0.0.1", port), 2))
        get("/health")(connection)
        time.sleep(0.2)


TLS_HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(200))
DIGITS = b"9" * 1_000_000
ANY_OF = {"anyOf": [{"type": "string", "pattern": f"^a{{{n},{n + 100}}}$"} for n in range(2000)]}
UNICODE = {"messages": [{"role": "user", "content": "\ud800"}]}


def statuses(*allowed: int | range) -> frozenset[int]:
    return frozenset(one for part in allowed for one in (part if isinstance(part, range) else (part,)))


NO = statuses(REFUSED)
NO_OR_END = statuses(REFUSED, ENDED)
OK_OR_NO = statuses(200, REFUSED)
ENDS = statuses(200, REFUSED, 503, 504, ENDED)

HOSTILE: tuple[Hostile, ...] = (
    # bodies
    Hostile("a body of 64 MB", large_body, NO_OR_END),
    Hostile("a body that is declared with 10^15 bytes", post(CHAT, b"{", {"Content-Length": 10**15}), NO),
    Hostile("a body of -1 bytes", post(CHAT, b"{}", {"Content-Length": -1}), NO),
    Hostile("a body of 1e3 bytes", post(CHAT, b"{}", {"Content-Length": "1e3"}), NO),
    Hostile(
        "two lengths of one body",
        raw(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\n{}"),
        NO,
    ),
    Hostile(
        "a length and chunks",
        post(CHAT, b"0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n", {"Transfer-Encoding": "chunked"}),
        NO_OR_END,
    ),
    Hostile("a chunk of 2^64 bytes", post(CHAT, b"f" * 16 + b"\r\n", {"Transfer-Encoding": "chunked"}), NO_OR_END),
    Hostile(
        "chunks that never end",
        dripping(
            head("POST", CHAT, {"Transfer-Encoding": "chunked", "Content-Type": "application/json"}),
            b"5\r\nabcde\r\n",
            0.2,
        ),
        NO_OR_END,
    ),
    Hostile("a body that never comes", post(CHAT, b"{", {"Content-Length": 100}), NO_OR_END),
    Hostile("100-continue and no body", post(CHAT, b"", {"Expect": "100-continue", "Content-Length": 10}), NO_OR_END),
    Hostile("a body in an encoding that would grow", post(CHAT, bytes(1000), {"Content-Encoding": "gzip"}), NO),
    Hostile("a form of several parts", post(CHAT, b"--x", {"Content-Type": "multipart/form-data; boundary=x"}), NO),
    Hostile("a form, as pages send it", post(CHAT, b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}), NO),
    Hostile("no content type", raw(head("POST", CHAT, {"Content-Length": 2}), b"{}"), NO),
    # JSON
    Hostile("arrays 100,000 deep", post(CHAT, b"[" * 100_000), NO),
    Hostile("objects 100,000 deep in a message", post(CHAT, b'{"messages":' + b'[{"a":' * 100_000), NO),
    Hostile(
        "a schema 5,000 deep",
        post(CHAT, json.dumps({"x": 1})[:-1].encode() + b',"response_format":' + b'{"a":' * 5000 + b"1" + b"}" * 5001),
        NO,
    ),
    Hostile("bytes that are not UTF-8", post(CHAT, b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}'), NO),
    Hostile("half a surrogate pair", post(CHAT, json.dumps(UNICODE).encode()), NO),
    Hostile("a NUL and control characters", chat(messages=[{"role": "user", "content": "\0\x1b[2J\u202e"}]), OK_OR_NO),
    Hostile("a number of 1,000,000 digits", post(CHAT, b'{"messages": [], "seed": ' + DIGITS + b"}"), NO),
    Hostile("NaN", post(COMPLETIONS, b'{"prompt": "x", "temperature": NaN}'), NO),
    Hostile("infinity", post(COMPLETIONS, b'{"prompt": "x", "temperature": 1e999}'), NO),
    Hostile("nothing", post(CHAT, b""), NO),
    Hostile("null", post(CHAT, b"null"), NO),
    Hostile("10,000 unknown fields", chat(**{f"field_{n}": n for n in range(10_000)}), OK_OR_NO),
    # fields
    Hostile("10^9 choices", chat(n=10**9), NO),
    Hostile("-1 choices", chat(n=-1), NO),
    Hostile("2^70 tokens", chat(max_tokens=2**70), OK_OR_NO),
    Hostile("-5 tokens", chat(max_tokens=-5), NO),
    Hostile("a temperature of -1", chat(temperature=-1), NO),
    Hostile("a seed of 2^70", chat(seed=2**70), OK_OR_NO),
    Hostile("10^6 alternatives", chat(logprobs=True, top_logprobs=10**6), NO),
    Hostile("a bias for 100,000 ids", chat(logit_bias={str(n): 1 for n in range(100_000)}), NO),
    Hostile("1,000 stop strings", chat(stop=[str(n) for n in range(1000)]), NO),
    Hostile("a stop string of 1 MB", chat(stop="x" * 1_000_000), OK_OR_NO),
    Hostile("100,000 prompts", complete(prompt=["x"] * 100_000), NO),
    Hostile("a prompt of 1 MB", complete(prompt="x" * 1_000_000), NO),
    Hostile("ids below 0", complete(prompt=[-1, -2]), NO),
    Hostile("ids that do not exist", complete(prompt=[2**31, 2**62]), NO),
    Hostile("ids that are no numbers", complete(prompt=[True, 1.5, None]), NO),
    Hostile("100,000 texts to embed", post("/v1/embeddings", json.dumps({"input": ["x"] * 100_000}).encode()), NO),
    Hostile("a model of 1 MB", chat(model="x" * 1_000_000), NO),
    Hostile("a model that is a path", chat(model="../../../../etc/passwd"), NO),
    Hostile("a path of a model", get("/v1/models/..%2f..%2fetc%2fpasswd"), NO),
    Hostile("10,000 messages", chat(messages=[{"role": "user", "content": "x"}] * 10_000), NO),
    Hostile("a message without a role", chat(messages=[{"content": "x"}]), NO),
    Hostile("messages that are no list", chat(messages={"role": "user"}), NO),
    Hostile(
        "a template as a message", chat(messages=[{"role": "user", "content": "{{ 7 * 7 }}{% for %}"}]), statuses(200)
    ),
    Hostile("tools that are nonsense", chat(tools=[{"type": 5}] * 1000), OK_OR_NO),
    # grammars
    Hostile("a schema that doubles 40 times", schema(doubling(40)), ENDS),
    Hostile("a schema of 2,000 patterns", schema(ANY_OF), ENDS),
    Hostile("a schema 200 deep", schema(nested(200)), ENDS),
    Hostile("a schema that is itself", schema({"$ref": "#"}), ENDS),
    Hostile("a schema elsewhere", schema({"$ref": "http://127.0.0.1:9/x.json"}), ENDS),
    Hostile(
        "a pattern that multiplies", schema({"type": "string", "pattern": "^(((a{1,1000}){1,1000}){1,1000})$"}), ENDS
    ),
    Hostile("a pattern that goes back", schema({"type": "string", "pattern": "^(a+)+(b+)+\\1$"}), ENDS),
    # heads
    Hostile("100,000 headers", raw(head("GET", "/health", {f"x-{n}": "y" for n in range(100_000)})), NO_OR_END),
    Hostile("a header of 10 MB", get("/health", {"x": "y" * 10_000_000}), NO_OR_END),
    Hostile("a path of 1 MB", get("/" + "a" * 1_000_000), NO_OR_END),
    Hostile("a head that drips", dripping(b"GET /health HTTP/1.1\r\nHost: localhost\r\n", b"x: y\r\n", 0.2), NO_OR_END),
    Hostile("a head that never ends", raw(b"GET /health HTTP/1.1\r\nHost: loc"), NO_OR_END),
    Hostile("nothing at all", raw(), NO_OR_END),
    Hostile("TLS", raw(TLS_HELLO), NO_OR_END),
    Hostile("bytes", raw(bytes(range(256)) * 64), NO_OR_END),
    Hostile("HTTP/0.9", raw(b"GET /health\r\n\r\n"), NO_OR_END),
    Hostile("HTTP/2", raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), NO_OR_END),
    Hostile(
        "a WebSocket",
        get("/", {"Connection": "close, Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": 13}),
        ENDS,
    ),
    Hostile("two names", raw(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"), NO),
    Hostile("a name that leads here", get("/v1/models", {"Host": "evil.example"}), NO),
    Hostile("a page of another site", post(CHAT, b"{}", {"Origin": "http://evil.example"}), NO),
    Hostile("a line end in a header", raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\nx: a\rb\nSet: c\r\n\r\n"), ENDS),
    # methods
    *(
        Hostile(f"the method {method}", get(CHAT, method=method), NO)
        for method in ("GET", "PUT", "DELETE", "TRACE", "OPTIONS", "BREW")
    ),
    Hostile("the method CONNECT", get("localhost:22", method="CONNECT"), NO),
    Hostile("another server's address", get("http://evil.example/v1/models"), NO),
    # files
    *(
        Hostile(f"the file {path[:40]}", get(path), NO)
        for path in (
            "/static/../../../../etc/passwd",
            "/static/..%2f..%2f..%2fetc/passwd",
            "/static/%2e%2e/%2e%2e/etc/passwd",
            "/static/..\\..\\etc\\passwd",
            "/static//etc/passwd",
            "//etc/passwd",
            "/static/index.html%00.js",
            "/static/.",
            "/static/" + "../" * 1000,
            "/static/\xff".encode("latin-1").decode("latin-1").replace("\xff", "%ff"),
            "/.env",
        )
    ),
    # connections
    Hostile("2,000 requests at once", pipelined, statuses(200)),
    Hostile("300 connections", many_connections, statuses(200, 503, ENDED)),
    Hostile("a stream that nobody reads", silent_stream, statuses(200)),
)


def answer_to(port: int, talk: Talk) -> tuple[int, bytes]:
    """The status of the last answer, or 0 if the connection was ended without one, and all that was received."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), MOST_SECONDS) as connection:
        with contextlib.suppress(ConnectionError):  # it ended the connection while it was written to
            talk(connection)
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionError:
            pass
    found = re.findall(rb"HTTP/1\.1 (\d{3}) ", received)
    return (int(found[-1]) if found else ENDED), received


def hostile_request_campaign(folder: Path, every: int = 1) -> HostileRequests:
    """Send every one, or one in `every`."""
    found = HostileRequests()
    with served_process(write_chat_model(folder / "model"), **LIMITS) as server:
        answer_to(server.port, chat())
        answer_to(server.port, schema({"type": "object", "properties": {"a": {"type": "integer"}}}))
        before = server.memory_bytes()
        for hostile in HOSTILE[::every]:
            found.trials += 1
            found.failures += [f"{hostile.name}: {what}" for what in wrong_after(server, hostile, found)]
        found.growth = server.memory_bytes() - before
        if found.growth > MOST_GROWTH:
            found.failures.append(f"the server has grown by {found.growth:,} bytes")
        if (code := server.stop()) != 0:
            found.failures.append(f"it ended with {code}: {server.log[-1:]}")
        said = "".join(server.log)
        if "Traceback" in said:
            found.failures.append(f"a traceback: {said[:2000]}")
    return found


def wrong_after(server: ServedProcess, hostile: Hostile, found: HostileRequests) -> list[str]:
    """Everything that went wrong with a request."""
    began, wrong = time.monotonic(), []
    try:
        status, received = answer_to(server.port, hostile.talk)
    except TimeoutError:
        return [f"no answer in {MOST_SECONDS:g} s"]
    seconds = time.monotonic() - began
    found.most_seconds = max(found.most_seconds, seconds)
    if status not in hostile.statuses:
        wrong.append(f"status {status}: {received[-300:]!r}")
    body = received.rpartition(b"\r\n\r\n")[2]
    if (
        status in REFUSED
        and body.startswith(b"{")
        and set(json.loads(body)["error"]) != {"message", "type", "param", "code"}
    ):
        wrong.append(f"not the form of an error: {body[:300]!r}")
    if b"root:" in received or str(Path(__file__).parents[2]).encode() in received:
        wrong.append("it has shown something of this machine")
    status, _ = answer_to(server.port, get("/health"))
    if status != 200:
        wrong.append(f"afterwards /health answers {status}")
    return wrong
