"""`/v1/embeddings`: vectors of texts."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial

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

BATCH_TOKENS = 512
"""Most tokens that are read between two steps of the engine."""


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
    vectors = await vectors_of(served, prompts)
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


async def vectors_of(served: ServedModel, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the vector (C,) of each text. They are computed between the steps of the model's engine, few at a time, so
    that samples do not wait for many texts.
    """
    found: dict[int, Tensor] = {}
    for numbers in batches(prompts):
        rows = [prompts[number] for number in numbers]
        vectors = await served.worker.call(partial(mean_hidden_states, served.session.model, rows))
        found.update(zip(numbers, vectors, strict=True))
    return [found[number] for number in range(len(prompts))]


def batches(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the numbers of the texts that are read together: of similar length, and at most BATCH_TOKENS with their
    padding, or one.
    """
    found: list[list[int]] = []
    for number in sorted(range(len(prompts)), key=lambda number: len(prompts[number])):
        if found and len(prompts[number]) * (len(found[-1]) + 1) <= BATCH_TOKENS:
            found[-1].append(number)
        else:
            found.append([number])
    return found


@torch.no_grad()
def mean_hidden_states(model: GPT, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return for each row of ids the mean (C,) over its tokens of the last hidden states, those that the head reads, in
    fp32 on the CPU. Rows are padded on the right, which no token to the left sees.
    """
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=model.embedding.weight.device)
    states = model.hidden_states(ForwardState(ids)).float()
    return [states[place, : len(row)].mean(0).cpu() for place, row in enumerate(rows)]


def written(vector: Tensor, as_base64: bool) -> list[float] | str:
    """Return a vector as numbers, or as the base64 of its little-endian 32-bit floats."""
    if as_base64:
        return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()
    return [float(number) for number in vector]
