"""What requests for completions and for answers have in common: settings, limits, samples and their counts."""

from __future__ import annotations

import hashlib
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from pydantic import ValidationError

from gptcli import __version__
from gptcli.errors import GptcliError
from gptcli.generate.config import SamplingParams
from gptcli.generate.constraint import FREE, Constraint
from gptcli.generate.requests import FinishReason, Request
from gptcli.generate.sample import Sample, TokenText
from gptcli.serve.models import ServedModel
from gptcli.serve.openai.errors import ApiError, context_length_exceeded, invalid, validation_error
from gptcli.serve.openai.response_schemas import FinishWord, PromptTokensDetails, Usage
from gptcli.serve.openai.schema import INT64, GenerationFields
from gptcli.serve.stream import Advance, Stream

MOST_TOKENS = 10**9
"""As many as a sample may ask for; a request's time ends long before."""
SMALLEST_TOP_P = 1e-30
"""Keeps the most likely token only, as OpenAI's top_p of 0 does."""


class Header(NamedTuple):
    """What all parts of one answer have in common."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    @classmethod
    def of(cls, served: ServedModel, kind: str) -> Header:
        """Return the header of a new answer, whose id begins with its kind."""
        return cls(f"{kind}-{uuid.uuid4().hex}", int(time.time()), served.name, fingerprint(served))


def fingerprint(served: ServedModel) -> str:
    """Return a word that changes with the weights and with this program, from which answers follow."""
    digest = hashlib.sha256(f"{__version__} {served.session.source}".encode()).hexdigest()
    return f"gptcli_{digest[:12]}"


def sampling_params(
    body: GenerationFields, stop: str | Sequence[str] | None, max_new_tokens: int, logprobs: int | None
) -> SamplingParams:
    """Return what the first sample of a request asks for.

    Raises:
        ApiError: a number cannot be computed with.
    """
    strings = (stop,) if isinstance(stop, str) else tuple(stop or ())
    settings = dict[str, Any](
        max_new_tokens=min(max_new_tokens, MOST_TOKENS),
        temperature=1.0 if body.temperature is None else body.temperature,
        top_k=body.top_k if body.top_k is not None and body.top_k > 0 else None,
        top_p=None if body.top_p is None else max(body.top_p, SMALLEST_TOP_P),
        min_p=body.min_p,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=body.logit_bias or {},
        seed=secrets.randbits(63) if body.seed is None else body.seed % INT64,
        stop=tuple(filter(None, strings)),
        overflow=body.overflow or "stop",
        logprobs=logprobs,
    )
    try:
        return SamplingParams(**settings)
    except ValidationError as error:
        raise validation_error(error) from error


def require_possible(served: ServedModel, body: GenerationFields) -> None:
    """Require what the schema alone does not.

    Raises:
        ApiError: a bias is for a token that the model lacks, or there are options of a stream without a stream.
    """
    size = served.session.model.config.vocab_size
    if body.logit_bias and (largest := max(body.logit_bias)) >= size:
        raise invalid(f"logit_bias has the id {largest}, and the model has {size} tokens", "logit_bias")
    if body.stream_options is not None and not body.stream:
        raise invalid("stream_options are only possible with stream", "stream_options")


def require_readable(served: ServedModel, ids: Sequence[int], param: str, *, may_slide: bool = False) -> None:
    """Require that the model can read a prompt.

    Raises:
        ApiError: it has an id that the model lacks, or is longer than the context unless that may slide.
    """
    size = served.session.model.config.vocab_size
    if (largest := max(ids)) >= size:
        raise invalid(f"the prompt has the id {largest}, and the model has {size} tokens", param)
    if len(ids) > served.context and not may_slide:
        raise context_length_exceeded(param, len(ids), served.context)


def require_few(count: int, most: int, param: str) -> None:
    """Require that one request does not ask for too many samples.

    Raises:
        ApiError: it does.
    """
    if count > most:
        raise invalid(f"the request asks for {count} texts; this server generates at most {most} at once", param)


class SampleSpec(NamedTuple):
    """What all samples of a request have in common.

    Attributes:
        stop_ids: the tokens that end a text.
        constraint: makes the constraint of one sample.
        prompt_logprobs: most likely tokens to keep with each token of a prompt; None for none.
    """

    params: SamplingParams
    stop_ids: frozenset[int]
    constraint: Callable[[], Constraint] = lambda: FREE
    prompt_logprobs: int | None = None

    def samples(self, served: ServedModel, prompts: Sequence[Sequence[int]], each: int) -> list[Sample]:
        """Return `each` samples of every prompt; sample i of a prompt is drawn with seed + i."""
        seeds = [(self.params.seed + number) % INT64 for number in range(each)]
        params = [self.params.model_copy(update={"seed": seed}) for seed in seeds]
        return [
            Sample(
                served.session.tokenizer,
                ids,
                one,
                stop_ids=self.stop_ids,
                constraint=self.constraint(),
                prompt_logprobs=self.prompt_logprobs,
            )
            for ids in prompts
            for one in params
        ]


@asynccontextmanager
async def generating(served: ServedModel, samples: Sequence[Sample]) -> AsyncIterator[Stream]:
    """Generate samples within the block; those that have not ended at its end are cancelled.

    Raises:
        ApiError: too many samples wait, or the engine does not work.
    """
    async with await served.worker.submit(samples) as stream:
        yield stream


async def whole_texts(served: ServedModel, samples: Sequence[Sample]) -> list[list[TokenText]]:
    """Return the texts of samples when all have ended.

    Raises:
        ApiError: as `generating`, or a sample ended with an error.
    """
    texts = [list[TokenText]() for _ in samples]
    async with generating(served, samples) as stream:
        async for advances in stream:
            for advance in advances:
                texts[advance.number] += advance.texts
                require_no_error(samples, advance)
    return texts


def require_no_error(samples: Sequence[Sample], advance: Advance) -> None:
    """Raise an ApiError if a sample ended for another reason than those of OpenAI."""
    if advance.finish_reason in (None, "stop", "eot", "length"):
        return
    raise generation_error(samples[advance.number].request.error)


def generation_error(error: GptcliError | None) -> ApiError:
    """Return the error for a sample that could not be finished."""
    if error is None:
        return ApiError(503, "the generation was cancelled", code="cancelled")
    return ApiError(500, f"the generation failed: {error.message}", code="generation_failed")


def finish_word(reason: FinishReason | None) -> FinishWord | None:
    """Return OpenAI's word for the reason for which a sample ended."""
    return None if reason is None else "length" if reason == "length" else "stop"


def usage_of(samples: Sequence[Sample], each: int, *, completion_tokens: int | None = None) -> Usage:
    """Return the counts of a request with `each` samples a prompt: a prompt counts once, and every token drawn."""
    prompts = [samples[first : first + each] for first in range(0, len(samples), each)]
    prompt_tokens = sum(group[0].request.prompt_length for group in prompts)
    drawn = sum(sample.request.count for sample in samples) if completion_tokens is None else completion_tokens
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=drawn,
        total_tokens=prompt_tokens + drawn,
        prompt_tokens_details=PromptTokensDetails(
            cached_tokens=sum(min(sample.request.cached_tokens for sample in group) for group in prompts)
        ),
    )


def token_ids(request: Request, parts: Sequence[TokenText], *, is_first: bool, has_ended: bool) -> dict[str, list[int]]:
    """Return the ids of a piece of a text, with the token that ended it, and before the first piece of the prompt."""
    ids = [token for part in parts for token in part.ids]
    if has_ended and request.finish_reason == "eot":
        ids.append(request.ids[-1])
    return {"token_ids": ids} | ({"prompt_token_ids": request.ids[: request.prompt_length]} if is_first else {})
