"""A server with the page and an API that does what a test tells it: slow answers, errors, broken connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gptcli.serve.page import page_routes

FACTS = {
    "description": "A language model with 1.3 million parameters that answers messages, trained on facts.jsonl.",
    "chat": True, "parameters": 1_329_024, "context": 256, "vocabulary": 2050, "tokenizer": "bpe",
    "stop_ids": [0], "stop_tokens": ["<|endoftext|>"], "corpus": ["facts.jsonl"], "training_bytes": 46_800,
    "training_tokens": 21_081, "examples": 576, "base": "base", "step": 415, "bits_per_byte": 0.416,
    "validation_loss": 0.391, "example": "Once upon a time",
}  # fmt: skip
MODEL = {"id": "facts", "object": "model", "created": 1, "owned_by": "gptcli", "gptcli": FACTS}
BASE_MODEL = {**MODEL, "id": "stories", "gptcli": {**FACTS, "chat": False, "corpus": ["stories.txt"]}}


@dataclass
class Plan:
    """What the next request is answered with."""

    pieces: Sequence[bytes | str] = ("A ", "fox ", "came.")
    logprobs: Sequence[float] = (-0.05, -0.5, -1.2, -2.5, -4.0)
    """Of the pieces in turn, repeated."""
    pause: float = 0.0
    """Seconds before each piece."""
    breaks_after: int | None = None
    """Pieces after which the connection is cut."""
    status: int = 200
    message: str = ""
    retry_after: int | None = None
    finish_reason: str = "stop"
    cut: int = 0
    """Characters of the end that a stop text cuts off."""


@dataclass
class FakeApi:
    """The state of the server, which a test reads and writes."""

    models: list[dict[str, Any]] = field(default_factory=lambda: [MODEL])
    key: str | None = None
    plans: list[Plan] = field(default_factory=list)
    """Plans of the next requests; the default plan if there are none."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the requests so far."""
    dropped: int = 0
    """Answers that the browser did not want to its end."""
    ids: dict[bytes, int] = field(default_factory=lambda: {b"": 0})
    address: str = ""

    def reset(self, *plans: Plan) -> None:
        """Forget what was asked, and answer by `plans`."""
        self.plans, self.bodies, self.dropped, self.models, self.key = list(plans), [], 0, [MODEL], None

    def id_of(self, piece: bytes) -> int:
        return self.ids.setdefault(piece, len(self.ids))

    def app(self) -> Starlette:
        routes = [
            Route("/v1/models", self.list_models),
            Route("/v1/chat/completions", self.answer, methods=["POST"]),
            Route("/v1/completions", self.answer, methods=["POST"]),
        ]
        return Starlette(routes=[*page_routes(), *routes])

    def refused(self, request: Request) -> Response | None:
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return error(401, "a key is needed")

    async def list_models(self, request: Request) -> Response:
        return self.refused(request) or JSONResponse({"object": "list", "data": self.models})

    async def answer(self, request: Request) -> Response:
        if refused := self.refused(request):
            return refused
        body = await request.json()
        self.bodies.append(body)
        plan = self.plans.pop(0) if self.plans else Plan()
        if plan.status != 200:
            headers = {} if plan.retry_after is None else {"Retry-After": str(plan.retry_after)}
            return error(plan.status, plan.message, headers)
        events = self.events(plan, body, is_chat="messages" in body)
        return StreamingResponse(self.counted(events), media_type="text/event-stream")

    async def counted(self, events: AsyncIterator[str]) -> AsyncIterator[str]:
        try:
            async for event in events:
                yield event
        except (asyncio.CancelledError, GeneratorExit):
            self.dropped += 1
            raise

    async def events(self, plan: Plan, body: dict[str, Any], *, is_chat: bool) -> AsyncIterator[str]:
        pieces = [piece.encode() if isinstance(piece, str) else piece for piece in plan.pieces]
        left = len(b"".join(pieces).decode()) - plan.cut
        pending: list[tuple[bytes, float]] = []
        if not is_chat:
            prompt = body["prompt"]
            ids = prompt if isinstance(prompt, list) else [self.id_of(word.encode()) for word in prompt.split()]
            yield event({"choices": [{"index": 0, "text": "", "prompt_token_ids": ids}]})
        for number, piece in enumerate(pieces):
            if number == plan.breaks_after:
                await asyncio.sleep(0.3)  # browsers drop what they have received but not yet read when a stream breaks
                raise ConnectionError("cut on purpose")
            await asyncio.sleep(plan.pause)
            pending.append((piece, plan.logprobs[number % len(plan.logprobs)]))
            try:
                text = b"".join(one for one, _ in pending).decode()[: max(left, 0)]
            except UnicodeDecodeError:
                continue
            left -= len(text)
            content = {"content": [self.token(*one) for one in pending]}
            choice = {"delta": {"content": text}} if is_chat else {"text": text, "logprobs": content}
            yield event({"choices": [{"index": 0, **choice}]})
            pending = []
        last = {"delta": {}} if is_chat else {"text": ""}
        yield event({"choices": [{"index": 0, **last, "finish_reason": plan.finish_reason}]})
        yield event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": len(pieces)}})
        yield "data: [DONE]\n\n"

    def token(self, piece: bytes, logprob: float) -> dict[str, Any]:
        rest = math.log(max(1 - math.exp(logprob), 1e-6) / 3)
        others = [
            (piece, logprob),
            (b" owl", rest),
            (b"<b>bold</b>", rest - 0.5),
            (b"\xe7\x8b", rest - 1),
            (b"", rest - 2),
        ]
        return self.entry(piece, logprob) | {"top_logprobs": [self.entry(*other) for other in others]}

    def entry(self, piece: bytes, logprob: float) -> dict[str, Any]:
        name = piece.decode(errors="backslashreplace") or "<|endoftext|>"
        return {"id": self.id_of(piece), "token": name, "bytes": list(piece), "logprob": logprob}


def event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": {"message": message, "code": None}}, status, headers)


@contextlib.contextmanager
def served(app: Starlette) -> Iterator[str]:
    """Serve an application on a free port, in a thread, and yield its address."""
    config = uvicorn.Config(app, port=0, log_level="critical", lifespan="off", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        threading.Event().wait(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(10)
