"""Models, tokens and errors over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from gptcli.errors import DataError
from gptcli.generate.constraint import Constraint
from gptcli.serve.models import ModelTable
from gptcli.serve.openai import chat as chat_module
from gptcli.session import Session

ANSWERS, CONTINUES = "answers", "continues"


@pytest.fixture
def post(address: str) -> Any:
    """Post JSON or bytes; return the response."""

    def post(path: str, content: Any) -> httpx.Response:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return httpx.post(address + path, content=body, headers={"Content-Type": "application/json"}, timeout=30)

    return post


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == [CONTINUES, ANSWERS]
    assert client.models.retrieve(ANSWERS) == models[1]
    with pytest.raises(openai.NotFoundError, match="'other' does not exist; this server has continues, answers"):
        client.models.retrieve("other")
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="other", prompt="a")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="name one of the models"):
        client.post("/completions", body={"prompt": "a"}, cast_to=object)


def test_tokens_are_those_that_completions_read(post: Any, continuing: Session, table: ModelTable) -> None:
    text = "The café, <|endoftext|>"
    found = post("/tokenize", {"model": CONTINUES, "prompt": text, "return_token_strs": True}).json()
    ids = continuing.tokenizer.encode(text)
    assert found["tokens"] == ids and found["count"] == len(ids) and found["max_model_len"] == 160
    assert "".join(found["token_strs"]).encode().decode("unicode_escape").encode("latin-1").decode() == text
    assert post("/detokenize", {"model": CONTINUES, "tokens": ids}).json() == {"prompt": text}

    messages = [{"role": "user", "content": "Who?"}]
    chat = table.get(ANSWERS).chat
    assert chat is not None
    expected = chat.ids(messages)
    assert post("/tokenize", {"model": ANSWERS, "messages": messages}).json()["tokens"] == expected
    assert post("/tokenize", {"model": ANSWERS}).status_code == 400
    assert post("/detokenize", {"model": ANSWERS, "tokens": [10**6]}).json()["error"]["param"] == "tokens"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": ' + b"[" * 100_000, b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "temperature": NaN}', b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", b'{"prompt": "a", "n": true}', b'{"prompt": "a", "n": "1"}',
        b'{"prompt": "a", "top_p": 1e-45, "min_p": 1e-45}',
    ],
)  # fmt: skip
def test_a_body_that_is_no_request_is_refused_in_openais_form(post: Any, body: bytes) -> None:
    response = post(
        "/v1/completions", body.replace(b"{", b'{"model": "continues", ', 1) if b'"prompt"' in body else body
    )
    assert response.status_code == 400
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"] and error["type"] == "invalid_request_error"


class Failing(Constraint):
    """Fails at its third token."""

    is_free = False

    def __init__(self) -> None:
        self.count = 0

    def accept(self, token: int) -> None:
        self.count += 1
        if self.count == 3:
            raise DataError("the grammar has broken")


def test_an_error_within_a_stream_is_an_event_and_the_stream_ends(
    client: openai.OpenAI, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*arguments: object) -> Callable[[], Constraint]:
        return Failing

    monkeypatch.setattr(chat_module, "constraint_maker", failing)
    options: dict[str, Any] = {"model": ANSWERS, "messages": [{"role": "user", "content": "a"}], "seed": 1}
    stream = client.chat.completions.create(**options, stream=True)
    assert next(iter(stream)).choices[0].delta.role == "assistant"
    with pytest.raises(openai.APIError, match="the generation failed: the grammar has broken"):
        list(stream)
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(**options)
    assert caught.value.code == "generation_failed"

    events = post("/v1/chat/completions", {**options, "stream": True}).text.strip().split("\n\n")
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "generation_failed"
    assert "data: [DONE]" not in events


def test_an_error_before_the_first_chunk_is_an_answer_with_its_status(post: Any) -> None:
    response = post("/v1/completions", {"model": CONTINUES, "prompt": "x" * 500, "stream": True})
    assert response.status_code == 400 and response.json()["error"]["code"] == "context_length_exceeded"


def test_many_clients_at_once_get_what_each_gets_alone(address: str, client: openai.OpenAI) -> None:
    def options(number: int) -> dict[str, Any]:
        return {"model": CONTINUES, "prompt": f"Number {number}", "seed": number, "max_tokens": 5 + number % 20}

    async def together() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as several:

            async def one(number: int) -> str:
                if number % 2:
                    return (await several.completions.create(**options(number))).choices[0].text
                stream = await several.completions.create(**options(number), stream=True)
                return "".join([chunk.choices[0].text async for chunk in stream])

            return await asyncio.gather(*(one(number) for number in range(12)))

    alone = [client.completions.create(**options(number)).choices[0].text for number in range(12)]
    assert asyncio.run(together()) == alone
