"""Bodies of requests and responses."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gptcli.serve.models import ModelTable, ServedModel
from gptcli.serve.openai.errors import invalid, validation_error
from gptcli.serve.openai.schema import ModelChoice, Schema

Body = TypeVar("Body", bound=Schema)


async def read_body(request: HttpRequest, schema: type[Body]) -> Body:
    """Return the body of a request.

    Raises:
        ApiError: it is not JSON, or not what the schema says.
    """
    try:
        return schema.model_validate_json(await request.body())
    except ValidationError as error:
        raise validation_error(error) from error


def json_response(content: Schema | bytes) -> Response:
    """Return a response of 200 with an object, or with the JSON of one."""
    body = content if isinstance(content, bytes) else content.json_bytes()
    return Response(body, media_type="application/json")


def served_model(request: HttpRequest, body: ModelChoice) -> ServedModel:
    """Return the model that a request names; the only one if it names none.

    Raises:
        ApiError: it does not exist, is loading, or is not named though there are several.
    """
    models: ModelTable = request.app.state.models
    if body.model is not None:
        return models.get(body.model)
    if len(models.names) > 1:
        raise invalid(f"name one of the models {', '.join(models.names)}", "model")
    return models.get(models.names[0])
