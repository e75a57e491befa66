"""`/v1/models`: what is served."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gptcli.serve.models import ModelTable, ServedModel
from gptcli.serve.openai.bodies import json_response
from gptcli.serve.openai.response_schemas import ModelCard, ModelList


async def list_models(request: HttpRequest) -> Response:
    """Answer the models that are ready."""
    models: ModelTable = request.app.state.models
    return json_response(ModelList(object="list", data=[card(served) for served in models.served()]))


async def retrieve_model(request: HttpRequest) -> Response:
    """Answer one model."""
    models: ModelTable = request.app.state.models
    return json_response(card(models.get(request.path_params["model"])))


def card(served: ServedModel) -> ModelCard:
    """Return what a client learns about a model."""
    return ModelCard(
        id=served.name,
        object="model",
        created=served.created,
        owned_by="gptcli",
        gptcli=served.facts.model_dump(mode="json"),
    )
