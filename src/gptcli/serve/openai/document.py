"""The OpenAPI document, which is made from the classes that read requests and write responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pydantic.json_schema import models_json_schema

from gptcli import __version__, strict_json
from gptcli.serve.openai.response_schemas import ErrorResponse
from gptcli.serve.openai.schema import Schema

REFERENCE = "#/components/schemas/"
DescribedSchema = tuple[type[Schema], Literal["validation", "serialization"]]
VALIDATED: Literal["validation"] = "validation"
WRITTEN: Literal["serialization"] = "serialization"
JSON, EVENTS = "application/json", "text/event-stream"
DESCRIPTION = (
    "OpenAI's API for models of your own. Fields of a request that are not listed are ignored, and null stands for a "
    "field's default."
)
STREAM = (
    "With `stream`: server-sent events, each `data: ` and the JSON of a {chunk}, and at the end `data: [DONE]`. "
    "An error ends the stream with an event that holds an ErrorResponse."
)


HEALTH_SCHEMA = {
    "type": "object",
    "properties": {
        "status": {"enum": ["ok", "loading", "failed"]},
        "models": {"type": "object", "additionalProperties": {"enum": ["loading", "ready", "failed"]}},
    },
    "required": ["status", "models"],
}
OPERATING: dict[str, dict[str, Any]] = {
    "/health": {
        "operationId": "health",
        "summary": "Say whether every model is ready.",
        "security": [],
        "responses": {
            "200": {"description": "Every model is ready.", "content": {JSON: {"schema": HEALTH_SCHEMA}}},
            "503": {"description": "One is loading or has failed.", "content": {JSON: {"schema": HEALTH_SCHEMA}}},
        },
    },
    "/metrics": {
        "operationId": "metrics",
        "summary": "Count requests, times and slots in Prometheus' text format.",
        "responses": {
            "200": {"description": "The metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}
        },
    },
}
"""The paths for whoever operates the server."""


class Operation(NamedTuple):
    """A method of a path.

    Attributes:
        summary: what it does.
        request: the class of its body, if it has one.
        response: the class of its answer.
        chunk: the class of the events of a stream, if it can stream.
    """

    method: str
    path: str
    summary: str
    request: type[Schema] | None
    response: type[Schema]
    chunk: type[Schema] | None = None


def document(operations: Sequence[Operation]) -> bytes:
    """Return the document of the API's operations, and of those of the server, as JSON."""
    requests = [operation.request for operation in operations if operation.request]
    responses: list[type[Schema]] = [schema for one in operations for schema in (one.response, one.chunk) if schema]
    responses.append(ErrorResponse)
    read: list[DescribedSchema] = [(schema, VALIDATED) for schema in dict.fromkeys(requests)]
    written: list[DescribedSchema] = [(schema, WRITTEN) for schema in dict.fromkeys(responses)]
    _, schemas = models_json_schema([*read, *written], ref_template=REFERENCE + "{model}")
    paths: dict[str, dict[str, Any]] = {path: {"get": about} for path, about in OPERATING.items()}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = described(operation)
    content = {
        "openapi": "3.1.0",
        "info": {"title": "gptcli serve", "version": __version__, "description": DESCRIPTION},
        "security": [{}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "If the server has keys."}},
        },
    }
    return strict_json.dumps(content).encode()


def described(operation: Operation) -> dict[str, Any]:
    """Return what the document says about an operation."""
    answers: dict[str, Any] = {JSON: media(operation.response)}
    text = "The answer."
    if operation.chunk is not None:
        answers[EVENTS] = {"schema": {"type": "string"}}
        text = f"The answer. {STREAM.format(chunk=operation.chunk.__name__)}"
    error = {"description": "An error.", "content": {JSON: media(ErrorResponse)}}
    found: dict[str, Any] = {
        "operationId": operation.path.strip("/").replace("/", "_").replace("{", "").replace("}", ""),
        "summary": operation.summary,
        "responses": {"200": {"description": text, "content": answers}, "4XX": error, "5XX": error},
    }
    if operation.request is not None:
        found["requestBody"] = {"required": True, "content": {JSON: media(operation.request)}}
    if "{model}" in operation.path:
        found["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]
    return found


def media(schema: type[Schema]) -> dict[str, Any]:
    """Return a reference to the schema of a body."""
    return {"schema": {"$ref": REFERENCE + schema.__name__}}
