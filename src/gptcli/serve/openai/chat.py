"""`/v1/chat/completions`: answers to conversations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gptcli.generate.sample import Sample, TokenText
from gptcli.serve.models import ServedModel
from gptcli.serve.openai.bodies import json_response, read_body, served_model
from gptcli.serve.openai.constraints import constraint_maker
from gptcli.serve.openai.errors import ApiError, invalid, unsupported
from gptcli.serve.openai.generation import (
    Header,
    SampleSpec,
    finish_word,
    generating,
    require_few,
    require_no_error,
    require_possible,
    require_readable,
    sampling_params,
    token_ids,
    usage_of,
    whole_texts,
)
from gptcli.serve.openai.logprobs import AnswerLogprobsWriter
from gptcli.serve.openai.prompts import conversation_ids
from gptcli.serve.openai.request_schemas import ChatRequest
from gptcli.serve.openai.response_schemas import (
    AnswerDelta,
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatResponse,
    ChunkChoice,
)
from gptcli.serve.openai.sse import EventStream
from gptcli.serve.stream import Advance

REFUSED = {
    "audio": "answers are text",
    "functions": "use tools, whose calls are not parsed",
    "function_call": "leave it out",
    "web_search_options": "leave it out",
}
"""Fields that would change the answer in a way that is not supported."""


class ChatJob(NamedTuple):
    """A request that can be carried out."""

    served: ServedModel
    body: ChatRequest
    ids: list[int]
    spec: SampleSpec
    header: Header

    def samples(self) -> list[Sample]:
        """Return one sample for each choice."""
        return self.spec.samples(self.served, [self.ids], self.body.n or 1)

    def logprobs(self) -> AnswerLogprobsWriter | None:
        """Return what writes the tokens of one answer, if they are asked for."""
        if not self.body.logprobs:
            return None
        with_ids = bool(self.body.return_token_ids)
        return AnswerLogprobsWriter(self.served.session.tokenizer, self.ids, with_ids=with_ids)


async def chat_completions(request: HttpRequest) -> Response:
    """Answer a conversation, at once or as a stream."""
    body = await read_body(request, ChatRequest)
    job = await chat_job(served_model(request, body), body, request.app.state.settings.max_samples)
    if body.stream:
        return EventStream(streamed_chat(job))
    return json_response(await completed_chat(job))


async def chat_job(served: ServedModel, body: ChatRequest, most: int) -> ChatJob:
    """Return what a request asks for.

    Raises:
        ApiError: it is not possible.
    """
    require_supported(body)
    require_possible(served, body)
    require_few(body.n or 1, most, "n")
    if served.chat is None:
        message = f"the model {served.name} has no chat template, so it answers no messages; use /v1/completions"
        raise ApiError(400, message, param="messages", code="no_chat_template")
    ids = await conversation_ids(served, body.messages, body.tools)
    require_readable(served, ids, "messages", may_slide=body.overflow == "slide")
    # Without a limit an answer ends at the latest where the context does, or after as many tokens.
    asked = body.max_completion_tokens or body.max_tokens
    longest = asked or served.context
    params = sampling_params(body, body.stop, longest, (body.top_logprobs or 0) if body.logprobs else None)
    constraint = await constraint_maker(served, body.response_format)
    return ChatJob(
        served, body, ids, SampleSpec(params, served.chat.stop_ids, constraint), Header.of(served, "chatcmpl")
    )


def require_supported(body: ChatRequest) -> None:
    """Require that nothing is asked for that would be left out silently.

    Raises:
        ApiError: something is.
    """
    for name, remedy in REFUSED.items():
        if getattr(body, name):
            raise unsupported(name, remedy)
    if body.modalities and set(body.modalities) != {"text"}:
        raise unsupported("modalities", "answers are text")
    if body.tool_choice not in (None, "auto", "none"):
        raise unsupported("tool_choice", 'only "auto" and "none" are, since calls of tools are not parsed')
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid("top_logprobs is only possible with logprobs", "top_logprobs")


async def completed_chat(job: ChatJob) -> bytes:
    """Return the JSON of the answers when all have ended.

    Raises:
        ApiError: one could not be finished.
    """
    samples = job.samples()
    texts = await whole_texts(job.served, samples)
    if not job.body.logprobs:
        return chat_response(job, samples, texts).json_bytes()
    # There may be a thousand tokens with twenty alternatives each, which the event loop must not wait for.
    return await asyncio.to_thread(lambda: chat_response(job, samples, texts).json_bytes())


def chat_response(job: ChatJob, samples: Sequence[Sample], texts: Sequence[Sequence[TokenText]]) -> ChatResponse:
    """Return the answers."""
    return ChatResponse(
        object="chat.completion",
        choices=[answer(job, *entry) for entry in zip(range(len(samples)), samples, texts, strict=True)],
        usage=usage_of(samples, len(samples)),
        **job.header._asdict(),
    )


def answer(job: ChatJob, number: int, sample: Sample, parts: Sequence[TokenText]) -> ChatChoice:
    """Return one answer."""
    reason = finish_word(sample.request.finish_reason)
    assert reason is not None  # it has ended
    logprobs = job.logprobs()
    return ChatChoice(
        index=number,
        message=AnswerMessage(role="assistant", content="".join(part.text for part in parts), refusal=None),
        logprobs=logprobs.grown(parts) if logprobs else None,
        finish_reason=reason,
        **ids_of(job, sample, parts, is_first=True, has_ended=True),
    )


def ids_of(
    job: ChatJob, sample: Sample, parts: Sequence[TokenText], *, is_first: bool = False, has_ended: bool = False
) -> dict[str, Any]:
    """Return the ids of a piece of an answer, if they are asked for."""
    if not job.body.return_token_ids:
        return {}
    return token_ids(sample.request, parts, is_first=is_first, has_ended=has_ended)


async def streamed_chat(job: ChatJob) -> AsyncGenerator[ChatChunk, None]:
    """Yield the answers in pieces, those of several side by side: of each first its role, then texts, then its end.

    Raises:
        ApiError: one cannot be finished.
    """
    samples = job.samples()
    has_usage = bool(job.body.stream_options and job.body.stream_options.include_usage)
    common: dict[str, Any] = {"object": "chat.completion.chunk", **job.header._asdict()}
    if has_usage:
        common["usage"] = None
    writers = [job.logprobs() for _ in samples]
    begun = set[int]()
    async with generating(job.served, samples) as stream:
        async for advances in stream:
            for number, parts, reason in advances:
                require_no_error(samples, Advance(number, parts, reason))
                sample = samples[number]
                if number not in begun:
                    begun.add(number)
                    first = ids_of(job, sample, (), is_first=True)
                    role = AnswerDelta(role="assistant", content="")
                    yield ChatChunk(choices=[chunk_choice(number, role, **first)], **common)
                text = "".join(part.text for part in parts)
                writer = writers[number]
                if text or (parts and writer):
                    more = {"logprobs": writer.grown(parts) if writer else None, **ids_of(job, sample, parts)}
                    yield ChatChunk(choices=[chunk_choice(number, AnswerDelta(content=text), **more)], **common)
                if reason is not None:
                    end = {"finish_reason": finish_word(reason), **ids_of(job, sample, (), has_ended=True)}
                    yield ChatChunk(choices=[chunk_choice(number, AnswerDelta(), **end)], **common)
    if has_usage:
        yield ChatChunk(choices=[], **common | {"usage": usage_of(samples, len(samples))})


def chunk_choice(number: int, delta: AnswerDelta, **more: Any) -> ChunkChoice:
    """Return a piece of an answer; its log-probabilities and the reason of its end are null unless they are given."""
    return ChunkChoice(index=number, delta=delta, **{"logprobs": None, "finish_reason": None, **more})
