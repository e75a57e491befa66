"""The application: its routes, and the layers around them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gptcli import strict_json
from gptcli.serve.access import NO_KEYS, AccessPolicy, ApiKeys
from gptcli.serve.guard import Guard, on_api_error, on_http_exception
from gptcli.serve.metrics import CONTENT_TYPE, HttpMetrics, Metric, line, render
from gptcli.serve.models import ModelTable
from gptcli.serve.openai.errors import ApiError
from gptcli.serve.openai.routes import openai_routes
from gptcli.serve.page import page_paths, page_routes
from gptcli.serve.settings import ServeSettings

HEALTH, METRICS = "/health", "/metrics"


def create_app(models: ModelTable, settings: ServeSettings, keys: ApiKeys = NO_KEYS) -> Starlette:
    """Return the application that serves `models`.

    `app.state` holds the models and the settings for the routes.
    """
    http, routes = HttpMetrics(), [*operating_routes(), *openai_routes(), *page_routes()]
    policy = AccessPolicy(keys, settings.allowed_hosts, settings.cors_origins, {HEALTH, *page_paths()})
    middleware = [Middleware(Guard, settings=settings, policy=policy, metrics=http)]
    if settings.cors_origins:
        middleware.insert(0, cors(settings))
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={HTTPException: on_http_exception, ApiError: on_api_error},
    )
    app.router.redirect_slashes = False
    app.state.models, app.state.settings, app.state.http = models, settings, http
    app.state.began = time.time()
    return app


def cors(settings: ServeSettings) -> Middleware:
    """Return the layer that lets web pages of some origins call the server."""
    return Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type"],
        expose_headers=["retry-after"],
    )


def operating_routes() -> Sequence[BaseRoute]:
    """Return the routes for whoever operates the server."""
    return [Route(HEALTH, health), Route(METRICS, metrics)]


async def health(request: Request) -> Response:
    """Answer 200 if every model can answer; 503 while one is loading, or if one has failed."""
    states = request.app.state.models.states()
    is_healthy = all(state == "ready" for state in states.values())
    status = "ok" if is_healthy else next(state for state in states.values() if state != "ready")
    content = strict_json.dumps({"status": status, "models": states})
    return Response(content, 200 if is_healthy else 503, media_type="application/json")


async def metrics(request: Request) -> Response:
    """Answer the metrics in Prometheus' text format."""
    state = request.app.state
    began = Metric(
        "process_start_time_seconds",
        "gauge",
        "Start of the server.",
        [line("process_start_time_seconds", {}, state.began)],
    )
    return Response(
        render([began, *state.http.metrics(), *state.models.metrics()]), headers={"Content-Type": CONTENT_TYPE}
    )
