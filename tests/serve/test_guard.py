"""What holds for every request: bodies within limits, errors in one form, and routes that end with their clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from gptcli.serve.access import NO_KEYS, ApiKeys
from gptcli.serve.app import create_app
from gptcli.serve.models import ModelTable
from gptcli.serve.openai.errors import ApiError
from gptcli.serve.settings import ServeSettings

KEY = "k" * 32
JSON = {"Content-Type": "application/json"}


class Probe:
    """Routes that do what routes do. `ended`: how often a slow one was ended."""

    def __init__(self) -> None:
        self.ended = 0
        self.begun = asyncio.Event()

    def routes(self) -> list[Route]:
        return [
            Route("/echo", self.echo, methods=["POST"]),
            Route("/slow", self.slow),
            Route("/bug", self.bug),
            Route("/refuses", self.refuses),
            Route("/stream", self.stream),
        ]

    async def echo(self, request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def slow(self, request: Request) -> Response:
        self.begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            self.ended += 1
        return PlainTextResponse("slow")

    async def bug(self, request: Request) -> Response:
        raise RuntimeError("/home/someone/secret")

    async def refuses(self, request: Request) -> Response:
        raise ApiError(400, "no", param="n", code="x")

    async def stream(self, request: Request) -> Response:
        async def parts() -> AsyncIterator[str]:
            self.begun.set()
            try:
                while True:
                    yield "part\n"
                    await asyncio.sleep(0.001)
            finally:
                self.ended += 1

        return StreamingResponse(parts())


def app_with(probe: Probe, keys: ApiKeys = NO_KEYS, **settings: Any) -> Starlette:
    app = create_app(ModelTable(["m"]), ServeSettings(log=settings.pop("log", "none"), **settings), keys)
    app.router.routes.extend(probe.routes())
    return app


def ask(method: str, path: str, app: Starlette | None = None, **options: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app or app_with(Probe()))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/health/", 404),
        ("GET", "/static/../../etc/passwd", 404),
        ("DELETE", "/health", 405),
        ("TRACE", "/echo", 405),
        ("OPTIONS", "/echo", 405),
        ("GET", "/refuses", 400),
        ("GET", "/bug", 500),
    ],
)
def test_errors_have_one_form_and_show_nothing_of_the_machine(method: str, path: str, status: int) -> None:
    response = ask(method, path)
    assert response.status_code == status and error_of(response)["message"]
    assert "secret" not in response.text and "gptcli/" not in response.text


def test_a_bug_keeps_its_traceback_for_whoever_runs_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    ask("GET", "/bug")
    assert "RuntimeError: /home/someone/secret" in capsys.readouterr().err


def test_a_body_up_to_the_limit_arrives_whole() -> None:
    for size in (0, 1, 2000):
        response = ask("POST", "/echo", app_with(Probe(), max_body_bytes=2000), content=b"x" * size, headers=JSON)
        assert response.text == str(size)


async def pieces(count: int, size: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * size


def test_a_longer_body_is_refused_declared_or_not() -> None:
    app = app_with(Probe(), max_body_bytes=2000)
    for content in (b"x" * 2001, pieces(3, 1000)):
        response = ask("POST", "/echo", app, content=content, headers=JSON)
        assert response.status_code == 413 and error_of(response)["code"] == "body_too_large"
        assert response.headers["connection"] == "close"


def test_bodies_together_are_bounded_and_the_bound_is_free_again_after_them() -> None:
    app = app_with(Probe(), max_buffered_bytes=3000)
    for _ in range(3):
        assert ask("POST", "/echo", app, content=b"x" * 2000, headers=JSON).text == "2000"
        refused = ask("POST", "/echo", app, content=b"x" * 4000, headers=JSON)
        assert refused.status_code == 429 and "retry-after" in refused.headers


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_only_what_is_declared_as_json_is_read(kind: str | None) -> None:
    response = ask("POST", "/echo", content=b"{}", headers={"Content-Type": kind} if kind else {})
    assert response.status_code == 415
    assert ask("POST", "/echo", content=b"{}", headers={"Content-Type": "Application/JSON; charset=utf-8"}).text == "2"


async def call(app: Starlette, path: str, receive: Callable[[], Awaitable[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The messages that the application sends."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    method = "POST" if path == "/echo" else "GET"
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b"", "root_path": ""}
    await app(scope, receive, send)
    return sent


@pytest.mark.parametrize("path", ["/slow", "/stream"])
def test_a_route_ends_with_its_client(path: str) -> None:
    probe = Probe()

    async def leave() -> list[dict[str, Any]]:
        messages = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> dict[str, Any]:
            if (message := next(messages, None)) is not None:
                return message
            await probe.begun.wait()
            return {"type": "http.disconnect"}

        return await asyncio.wait_for(call(app_with(probe), path, receive), 10)

    sent = asyncio.run(leave())
    assert probe.ended == 1
    assert not any(not message.get("more_body", True) for message in sent)


def test_a_client_that_leaves_within_its_body_costs_nothing_more() -> None:
    app = app_with(Probe(), max_buffered_bytes=1024)

    async def leave() -> None:
        for _ in range(3):  # each of which would fill what may be buffered
            messages = iter([{"type": "http.request", "body": b"x" * 1000, "more_body": True}])

            async def receive(messages: Any = messages) -> dict[str, Any]:
                return next(messages, {"type": "http.disconnect"})

            assert await call(app, "/echo", receive) == []

    asyncio.run(leave())
    assert ask("POST", "/echo", app, content=b"x" * 1000, headers=JSON).text == "1000"


def test_a_body_that_does_not_come_in_time_is_refused() -> None:
    app = app_with(Probe(), body_seconds=0.05)

    async def stall() -> list[dict[str, Any]]:
        messages = iter([{"type": "http.request", "body": b"{", "more_body": True}])

        async def receive() -> dict[str, Any]:
            if (message := next(messages, None)) is not None:
                return message
            await asyncio.sleep(60)
            raise AssertionError

        return await asyncio.wait_for(call(app, "/echo", receive), 10)

    start, body = asyncio.run(stall())
    assert start["status"] == 408 and json.loads(body["body"])["error"]["code"] == "timeout"


def test_a_key_is_needed_for_all_but_health_and_the_page() -> None:
    app = app_with(Probe(), ApiKeys([KEY]))
    assert ask("GET", "/", app).status_code == 200
    assert ask("GET", "/health", app).status_code == 503
    for path in ("/metrics", "/v1/models", "/nothing"):
        assert ask("GET", path, app).status_code == 401
    assert ask("GET", "/metrics", app, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_other_sites_are_allowed_only_where_asked_for() -> None:
    origin = {"Origin": "https://page.example"}
    asking = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    assert "access-control-allow-origin" not in ask("OPTIONS", "/echo", headers=asking).headers
    app = app_with(Probe(), cors_origins=("https://page.example",))
    assert ask("OPTIONS", "/echo", app, headers=asking).headers["access-control-allow-origin"] == origin["Origin"]
    answer = ask("POST", "/echo", app, content=b"{}", headers={**JSON, **origin})
    assert answer.text == "2" and answer.headers["access-control-allow-origin"] == origin["Origin"]
    other = {**JSON, "Origin": "https://other.example"}
    assert ask("POST", "/echo", app, content=b"{}", headers=other).status_code == 403


@pytest.mark.parametrize(("log", "shown"), [("none", []), ("requests", ["200"]), ("prompts", ["200", "a secret"])])
def test_the_log_holds_contents_only_if_asked_to(
    log: str, shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    ask("POST", "/echo?key=hidden", app_with(Probe(), log=log), content=b'"a secret"', headers=JSON)
    said = capsys.readouterr().err
    assert [word for word in ("200", "a secret", "hidden") if word in said] == shown


def test_requests_are_counted_by_route() -> None:
    app = app_with(Probe())
    ask("POST", "/echo", app, content=b"{}", headers=JSON)
    ask("GET", "/no/such/path", app)
    text = ask("GET", "/metrics", app).text
    assert 'gptcli_http_requests_total{route="/echo",method="POST",status="200"} 1' in text
    assert 'gptcli_http_requests_total{route="other",method="GET",status="404"} 1' in text


def test_health_is_unavailable_while_a_model_loads() -> None:
    response = ask("GET", "/health")
    assert response.status_code == 503 and response.json() == {"status": "loading", "models": {"m": "loading"}}
