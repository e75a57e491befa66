"""`/tokenize` and `/detokenize`: texts to ids and back."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gptcli.errors import DataError
from gptcli.serve.models import ServedModel
from gptcli.serve.openai.bodies import json_response, read_body, served_model
from gptcli.serve.openai.errors import invalid, request_error
from gptcli.serve.openai.prompts import conversation_ids
from gptcli.serve.openai.request_schemas import DetokenizeRequest, TokenizeRequest
from gptcli.serve.openai.response_schemas import DetokenizeResponse, TokenizeResponse


async def tokenize(request: HttpRequest) -> Response:
    """Answer the ids of a text or of a conversation."""
    body = await read_body(request, TokenizeRequest)
    served = served_model(request, body)
    if (body.prompt is None) == (body.messages is None):
        raise invalid("give either prompt or messages", "prompt")
    if body.messages is not None:
        ids = await conversation_ids(served, body.messages)
    else:
        ids = await ids_of(served, body.prompt or "", adds=body.add_special_tokens is not False)
    content = TokenizeResponse(count=len(ids), max_model_len=served.context, tokens=ids)
    if body.return_token_strs:
        names = [served.session.tokenizer.token_text(token) for token in ids]
        content = content.model_copy(update={"token_strs": names})
    return json_response(content)


async def ids_of(served: ServedModel, text: str, *, adds: bool) -> list[int]:
    """Return the ids of a text, which may be empty, after the token that the model expects before texts if `adds`.

    Raises:
        ApiError: the tokenizer cannot represent it.
    """
    tokenizer = served.session.tokenizer

    def encode() -> list[int]:
        tokenizer.require_representable(text)
        before = tokenizer.framing.before if adds and tokenizer.adds_bos else ()
        return [*before, *tokenizer.encode(text)]

    try:
        return await served.pool.run(encode)
    except DataError as error:
        raise request_error(error, "prompt") from error


async def detokenize(request: HttpRequest) -> Response:
    """Answer the text of ids."""
    body = await read_body(request, DetokenizeRequest)
    tokenizer = served_model(request, body).session.tokenizer
    try:
        tokenizer.require_known(body.tokens)
        return json_response(DetokenizeResponse(prompt=tokenizer.decode(body.tokens)))
    except DataError as error:
        raise request_error(error, "tokens") from error
