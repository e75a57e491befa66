"""The routes of OpenAI's API, and what the document of the API says about each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from gptcli.serve.openai.chat import chat_completions
from gptcli.serve.openai.completions import completions
from gptcli.serve.openai.document import Operation, document
from gptcli.serve.openai.embeddings import embeddings
from gptcli.serve.openai.model_list import list_models, retrieve_model
from gptcli.serve.openai.request_schemas import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeRequest,
)
from gptcli.serve.openai.response_schemas import (
    ChatChunk,
    ChatResponse,
    CompletionResponse,
    DetokenizeResponse,
    EmbeddingResponse,
    ModelCard,
    ModelList,
    TokenizeResponse,
)
from gptcli.serve.openai.tokens import detokenize, tokenize

Endpoint = Callable[[HttpRequest], Awaitable[Response]]
DOCUMENT_PATH = "/openapi.json"


class ApiRoute(NamedTuple):
    """A path with what answers it and what the document says about it."""

    endpoint: Endpoint
    operation: Operation


API: tuple[ApiRoute, ...] = (
    ApiRoute(list_models, Operation("GET", "/v1/models", "List the models that are served.", None, ModelList)),
    ApiRoute(retrieve_model, Operation("GET", "/v1/models/{model}", "Describe one model.", None, ModelCard)),
    ApiRoute(
        completions,
        Operation(
            "POST", "/v1/completions", "Continue texts.", CompletionRequest, CompletionResponse, CompletionResponse
        ),
    ),
    ApiRoute(
        chat_completions,
        Operation("POST", "/v1/chat/completions", "Answer a conversation.", ChatRequest, ChatResponse, ChatChunk),
    ),
    ApiRoute(
        embeddings, Operation("POST", "/v1/embeddings", "Return vectors of texts.", EmbeddingRequest, EmbeddingResponse)
    ),
    ApiRoute(tokenize, Operation("POST", "/tokenize", "Return the ids of a text.", TokenizeRequest, TokenizeResponse)),
    ApiRoute(
        detokenize, Operation("POST", "/detokenize", "Return the text of ids.", DetokenizeRequest, DetokenizeResponse)
    ),
)


def openai_routes() -> list[Route]:
    """Return the routes."""
    content = document([route.operation for route in API])

    async def openapi(request: HttpRequest) -> Response:
        """Answer the document of the API."""
        return Response(content, media_type="application/json")

    routes = [
        Route(route.operation.path.replace("{model}", "{model:path}"), route.endpoint, methods=[route.operation.method])
        for route in API
    ]
    return [*routes, Route(DOCUMENT_PATH, openapi, methods=["GET"])]
