"""The settings of generation, with Hugging Face's names. It imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, field_validator

from gptcli.config import Config

SMALLEST_TEMPERATURE = 1e-30
"""Logits divided by less overflow in fp32; the most likely token would be drawn in any case."""


WHOLE_PROMPTS = 2**15
"""Tokens of prompts that are read at once where nobody waits for the next token."""


class EngineConfig(NamedTuple):
    """How an engine runs its requests, whatever these ask for."""

    rows: int = 32
    """Most requests decoded side by side; halved when the GPU's memory does not suffice."""
    speculate: int = 0
    """Most draft tokens of a request; 0 turns drafts off."""
    chunk: int = 32
    """Most tokens of prompts that are read with a step of the requests that decode, which then takes up to twice as
    long; beside few requests fewer are read."""
    cache_bytes: int | None = None
    """Memory for the keys and values of all requests; None takes half of the memory."""
    context: int | None = None
    """A shorter context than the model's."""


ENGINE_DEFAULTS = EngineConfig()


class SamplingParams(Config):
    """What one request asks for: how its tokens are drawn, and what ends it.

    Logits are changed in this order: logit_bias, presence_penalty and frequency_penalty, repetition_penalty, the mask
    of a grammar, temperature, top_k, top_p, min_p; from repetition_penalty on it is the order of `transformers`.
    """

    FREE_TEXTS = frozenset(("stop",))

    max_new_tokens: int = Field(default=200, ge=1, le=10**9)
    """Most tokens of a sample, whatever the model's context length."""

    temperature: float = Field(default=0.8, ge=0)
    """Divisor of the logits: 1 is the model's own distribution, below 1 the text is safer, above 1 wilder, and 0 always
    draws the most likely token (greedy; the seed then has no effect)."""

    top_k: int | None = Field(default=None, ge=0)
    """Draw only from the k most likely tokens; 0 or none draws from all."""

    top_p: float | None = Field(default=None, gt=0, le=1)
    """Draw only from the most likely tokens that together have this probability (nucleus sampling); 1 or none draws
    from all."""

    min_p: float | None = Field(default=None, ge=0, le=1)
    """Drop tokens whose probability is below this fraction of the highest; 0 or none drops none."""

    repetition_penalty: float = Field(default=1.0, ge=0.01, le=100)
    """Above 1, makes every token that occurs in the prompt or the text so far less likely (CTRL's penalty)."""

    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    """Subtracted from the logit of every token that occurs in the text so far, not in the prompt (OpenAI's penalty)."""

    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    """Subtracted from a token's logit once for each time that it occurs in the text so far, not in the prompt (OpenAI's
    penalty)."""

    logit_bias: dict[Annotated[int, Field(ge=0, lt=2**31)], Annotated[float, Field(ge=-100, le=100)]] = Field(
        default={}, max_length=1024
    )
    """Numbers added to the logits of tokens, by id: -100 practically forbids a token, 100 practically forces it."""

    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Strings that end a sample as soon as its text contains one; the text ends before it."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the first sample; sample i of every prompt is drawn with seed + i, independent of all other samples."""

    overflow: Literal["slide", "stop"] = "slide"
    """The action when the model's context is full: "slide" keeps its last half, reads it again and continues; "stop"
    ends the sample (finish_reason "length")."""

    logprobs: int | None = Field(default=None, ge=0, le=20)
    """Most likely tokens that are kept with every token drawn, with their log-probabilities."""

    @field_validator("temperature", mode="before")
    @classmethod
    def smallest_is_zero(cls, value: Any) -> Any:
        """Replace a temperature by which logits cannot be divided without overflow with 0."""
        return 0.0 if isinstance(value, float) and 0 < value < SMALLEST_TEMPERATURE else value

    @property
    def is_greedy(self) -> bool:
        """Whether every token is the most likely one."""
        return self.temperature == 0


class GenerationConfig(SamplingParams):
    """The settings of `gptcli generate`: those of every sample, and those of the whole generation."""

    num_samples: int = Field(default=1, ge=1, le=10**6)
    """Samples for each prompt."""

    speculate: int = Field(default=0, ge=0)
    """Most draft tokens of a sample, taken from earlier text after the same words and checked in one pass of the model:
    faster on text that repeats itself, such as code. The tokens stay the same, up to rounding; 0 turns it off."""

    document_start: bool = False
    """Put the token that precedes each document in training (the tokenizer's beginning-of-text token, else its
    end-of-text token) before every prompt, so that the prompt is read as the beginning of a document. When off, a
    prompt is read as the tokenizer encodes it, which gives the same greedy text as `transformers`. An empty prompt
    always begins a document."""

    batch_size: int = Field(default=32, ge=1)
    """Most samples generated side by side; halved when the GPU's memory does not suffice."""

    def params(self, sample: int = 0) -> SamplingParams:
        """Return what sample `sample` of a prompt asks for: these settings, with its own seed."""
        values = {name: getattr(self, name) for name in SamplingParams.model_fields}
        return SamplingParams.model_construct(**values | {"seed": self.seed + sample})

    def engine_config(self, prompts: Sequence[Sequence[int]]) -> EngineConfig:
        """Return how an engine is to run all samples of the prompts, given as ids: with slots that just hold them, and
        each prompt read at once.
        """
        rows = min(self.batch_size, len(prompts) * self.num_samples)
        context = max(map(len, prompts), default=0) + self.max_new_tokens
        return EngineConfig(max(1, rows), self.speculate, chunk=WHOLE_PROMPTS, context=context)
