"""`/v1/completions`: texts that the model continues."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from statistics import fmean
from typing import NamedTuple

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gptcli.generate.sample import Sample, TokenText
from gptcli.serve.models import ServedModel
from gptcli.serve.openai.bodies import json_response, read_body, served_model
from gptcli.serve.openai.errors import invalid, unsupported
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
from gptcli.serve.openai.logprobs import TextLogprobsWriter, joined_logprobs
from gptcli.serve.openai.prompts import listed, text_ids
from gptcli.serve.openai.request_schemas import CompletionRequest
from gptcli.serve.openai.response_schemas import CompletionResponse, TextChoice, TextLogprobs, Usage
from gptcli.serve.openai.sse import EventStream

DEFAULT_MAX_TOKENS = 16
"""As at OpenAI."""


class CompletionJob(NamedTuple):
    """A request that can be carried out.

    Attributes:
        texts: the prompts as they were given.
        prompts: their ids.
        each: samples of each prompt.
        drops: whether what is drawn is left out, since no token was asked for.
    """

    served: ServedModel
    body: CompletionRequest
    texts: list[str | list[int]]
    prompts: list[list[int]]
    spec: SampleSpec
    each: int
    header: Header
    drops: bool

    def samples(self) -> list[Sample]:
        """Return the samples, those of one prompt after the other."""
        return self.spec.samples(self.served, self.prompts, self.each)

    def response(self, choices: list[TextChoice]) -> CompletionResponse:
        """Return choices with the header."""
        return CompletionResponse(object="text_completion", choices=choices, **self.header._asdict())


async def completions(request: HttpRequest) -> Response:
    """Answer with completions, at once or as a stream."""
    body = await read_body(request, CompletionRequest)
    job = await completion_job(served_model(request, body), body, request.app.state.settings.max_samples)
    if body.stream:
        return EventStream(streamed(job))
    return json_response(await completed(job))


async def completed(job: CompletionJob) -> bytes:
    """Return the JSON of the completions when all have ended.

    Raises:
        ApiError: one could not be finished.
    """
    samples = job.samples()
    texts = await whole_texts(job.served, samples)
    if job.body.logprobs is None:
        return response_of(job, samples, texts).json_bytes()
    # There may be a thousand tokens with twenty alternatives each, which the event loop must not wait for.
    return await asyncio.to_thread(lambda: response_of(job, samples, texts).json_bytes())


async def completion_job(served: ServedModel, body: CompletionRequest, most: int) -> CompletionJob:
    """Return what a request asks for.

    Raises:
        ApiError: it is not possible.
    """
    n = body.n or 1
    each = body.best_of or n
    if body.suffix:
        raise unsupported("suffix", "leave it out")
    if each < n:
        raise invalid(f"best_of is {each}, and must be at least n, which is {n}", "best_of")
    if body.stream and each > n:
        raise invalid("best_of is not possible with stream", "best_of")
    require_possible(served, body)
    texts = listed(body.prompt or "")
    require_few(len(texts) * each, most, "prompt" if len(texts) > 1 else "n")
    prompts = await text_ids(served, texts, "prompt")
    scores_prompt = bool(body.echo) and body.logprobs is not None
    for ids in prompts:
        require_readable(served, ids, "prompt", may_slide=body.overflow == "slide" and not scores_prompt)
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    params = sampling_params(body, body.stop, max(1, max_tokens), body.logprobs)
    spec = SampleSpec(params, served.session.stop_ids, prompt_logprobs=body.logprobs if scores_prompt else None)
    header = Header.of(served, "cmpl")
    return CompletionJob(served, body, texts, prompts, spec, each, header, drops=max_tokens == 0)


class ChoiceWriter:
    """Writes one choice as its sample grows, with the prompt before it if that is asked for."""

    def __init__(self, job: CompletionJob, sample: Sample, number: int) -> None:
        self.job, self.sample, self.index = job, sample, number
        self.logprobs = (
            None
            if job.body.logprobs is None
            else TextLogprobsWriter(job.served.session.tokenizer, with_ids=bool(job.body.return_token_ids))
        )
        self.has_begun = False

    def write(self, parts: Sequence[TokenText], *, has_ended: bool) -> TextChoice:
        """Return the choice's next piece."""
        request = self.sample.request
        texts, found, ids = list[str](), list[TextLogprobs](), dict[str, list[int]]()
        if self.job.body.return_token_ids:
            ids = token_ids(request, parts, is_first=not self.has_begun, has_ended=has_ended)
        if not self.has_begun:
            texts.append(self.prompt(found))
        self.has_begun = True
        if not self.job.drops:
            texts += [part.text for part in parts]
            if self.logprobs is not None:
                found.append(self.logprobs.grown(parts))
                if has_ended and request.finish_reason == "eot":
                    found.append(self.logprobs.ending(request))
        reason = "length" if self.job.drops else finish_word(request.finish_reason)
        return TextChoice(
            index=self.index,
            text="".join(texts),
            logprobs=None if self.logprobs is None else joined_logprobs(found),
            finish_reason=reason if has_ended else None,
            **ids,
        )

    def prompt(self, found: list[TextLogprobs]) -> str:
        """Return the text before the completion: the prompt if that is asked for, and add its tokens to `found` if they
        are.
        """
        request, given = self.sample.request, self.job.texts[self.index // self.job.each]
        ids = request.ids[: request.prompt_length]
        if self.logprobs is None:
            decoded = given if isinstance(given, str) else self.job.served.session.tokenizer.decode(ids)
            return decoded if self.job.body.echo else ""
        if not self.job.body.echo:
            self.logprobs.skip_prompt(ids)
            return ""
        scores = request.prompt_scores
        text, tokens = self.logprobs.prompt(ids, scores.logprobs, scores.top_logprobs)
        found.append(tokens)
        return text


def response_of(
    job: CompletionJob, samples: Sequence[Sample], texts: Sequence[Sequence[TokenText]]
) -> CompletionResponse:
    """Return the completions that were asked for."""
    choices = [
        ChoiceWriter(job, sample, number).write(parts, has_ended=True)
        for number, (sample, parts) in enumerate(zip(samples, texts, strict=True))
    ]
    kept = [choices[number] for number in best(samples, job.each, job.body.n or 1)]
    numbered = [choice.model_copy(update={"index": index}) for index, choice in enumerate(kept)]
    return job.response(numbered).model_copy(update={"usage": job_usage(job, samples)})


def best(samples: Sequence[Sample], each: int, n: int) -> list[int]:
    """Return the numbers of the `n` samples of each prompt whose tokens have the highest mean log-probability."""
    if each == n:
        return list(range(len(samples)))
    groups = [range(first, first + each) for first in range(0, len(samples), each)]
    return [
        number
        for group in groups
        for number in sorted(group, key=lambda number: -fmean(samples[number].request.logprobs))[:n]
    ]


def job_usage(job: CompletionJob, samples: Sequence[Sample]) -> Usage:
    """Return the counts of a request."""
    return usage_of(samples, job.each, completion_tokens=0 if job.drops else None)


async def streamed(job: CompletionJob) -> AsyncGenerator[CompletionResponse, None]:
    """Yield the completions in pieces, those of several side by side.

    Raises:
        ApiError: one cannot be finished.
    """
    samples = job.samples()
    writers = [ChoiceWriter(job, sample, number) for number, sample in enumerate(samples)]
    has_usage = bool(job.body.stream_options and job.body.stream_options.include_usage)
    no_usage = {"usage": None} if has_usage else {}
    async with generating(job.served, samples) as stream:
        async for advances in stream:
            for advance in advances:
                require_no_error(samples, advance)
                has_ended = advance.finish_reason is not None
                piece = writers[advance.number].write(advance.texts, has_ended=has_ended)
                if piece.text or has_ended or piece.prompt_token_ids or (piece.logprobs and piece.logprobs.tokens):
                    yield job.response([piece]).model_copy(update=no_usage)
    if has_usage:
        yield job.response([]).model_copy(update={"usage": job_usage(job, samples)})
