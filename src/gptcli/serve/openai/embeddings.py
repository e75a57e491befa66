"""`/v1/embeddings`: vectors of texts."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import torch
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from torch import Tensor
from torch.nn.functional import normalize

from gptcli.models.gpt import GPT
from gptcli.nn.state import ForwardState
from gptcli.serve.models import ServedModel
from gptcli.serve.openai.bodies import json_response, read_body, served_model
from gptcli.serve.openai.errors import invalid
from gptcli.serve.openai.generation import require_readable
from gptcli.serve.openai.prompts import listed, text_ids
from gptcli.serve.openai.request_schemas import EmbeddingRequest
from gptcli.serve.openai.response_schemas import EmbeddingItem, EmbeddingResponse, EmbeddingUsage


async def embeddings(request: HttpRequest) -> Response:
    """Answer the vectors of texts."""
    body = await read_body(request, EmbeddingRequest)
    served = served_model(request, body)
    width = served.session.model.config.n_embd
    if body.dimensions not in (None, width):
        raise invalid(f"dimensions is {body.dimensions}, and the model's vectors have {width} numbers", "dimensions")
    prompts = await text_ids(served, listed(body.input), "input")
    for ids in prompts:
        require_readable(served, ids, "input")
    vectors = [await vector_of(served, ids) for ids in prompts]
    if body.normalize is not False:
        vectors = [normalize(vector, dim=0) for vector in vectors]
    count = sum(map(len, prompts))
    return json_response(
        EmbeddingResponse(
            object="list",
            data=[
                EmbeddingItem(
                    object="embedding", index=index, embedding=written(vector, body.encoding_format == "base64")
                )
                for index, vector in enumerate(vectors)
            ],
            model=served.name,
            usage=EmbeddingUsage(prompt_tokens=count, total_tokens=count),
        )
    )


async def vector_of(served: ServedModel, ids: Sequence[int]) -> Tensor:
    """Return the vector (C,) of ids, which is computed between two steps of the model's engine: one text at a time, so
    that samples do not wait for many.
    """
    return await served.worker.call(lambda: mean_hidden_state(served.session.model, ids))


@torch.no_grad()
def mean_hidden_state(model: GPT, ids: Sequence[int]) -> Tensor:
    """Return the mean (C,) over the tokens of the last hidden states, those that the head reads, in fp32 on the CPU."""
    states = model.hidden_states(ForwardState(torch.tensor([list(ids)], device=model.embedding.weight.device)))
    return states[0].float().mean(0).cpu()


def written(vector: Tensor, as_base64: bool) -> list[float] | str:
    """Return a vector as numbers, or as the base64 of its little-endian 32-bit floats."""
    if as_base64:
        return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()
    return [float(number) for number in vector]
