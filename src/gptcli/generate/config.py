"""What may be asked of generation. Free of torch; the names are Hugging Face's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from gptcli.config import Config

SMALLEST_TEMPERATURE = 1e-30
"""Logits divided by less overflow in fp32; what would be drawn there is the most likely token in any case."""


class GenerationConfig(Config):
    """How tokens are drawn and when a sample ends.

    The filters apply in the order of `transformers`: repetition_penalty, temperature, top_k, top_p, min_p.
    """

    FREE_TEXTS = frozenset(("stop",))

    max_new_tokens: int = Field(default=200, ge=1, le=10**9)
    """Tokens that a sample has at most, whatever the model's context length."""

    temperature: float = Field(default=0.8, ge=0)
    """Divides the logits: below 1 the text is safer, above 1 wilder, 1 is the model's own distribution, and 0 always
    takes the most likely token (greedy; the seed then has no effect)."""

    top_k: int | None = Field(default=None, ge=0)
    """Draw only from the k most likely tokens; 0 or none: from all."""

    top_p: float | None = Field(default=None, gt=0, le=1)
    """Draw only from the most likely tokens that together have this probability (nucleus sampling); 1 or none: all."""

    min_p: float | None = Field(default=None, ge=0, le=1)
    """Draw only from tokens at least this fraction as likely as the most likely one; 0 or none: from all."""

    repetition_penalty: float = Field(default=1.0, ge=0.01, le=100)
    """Above 1, makes every token that stands in the prompt or the text so far less likely (CTRL's penalty)."""

    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Strings that end a sample as soon as its text contains one; neither it nor what follows is part of the text."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Sample i of every prompt is drawn with seed + i, and depends on nothing else that is generated beside it."""

    num_samples: int = Field(default=1, ge=1, le=10**6)
    """Samples for each prompt."""

    overflow: Literal["slide", "stop"] = "slide"
    """When the model's context is full: "slide" keeps its last half, reads that afresh and goes on; "stop" ends the
    sample (finish_reason "length")."""

    speculate: int = Field(default=0, ge=0)
    """Ids of a row that are guessed at most, from what followed the same words before, and checked in one pass of the
    model: faster on text that repeats itself, such as code. What is drawn stays the same, up to rounding; 0: none."""

    document_start: bool = False
    """Put the token that stands before each document in training (the tokenizer's beginning-of-text token, else its
    end-of-text token) before every prompt, so that it is read as the beginning of a document. When off, a prompt is
    read as the tokenizer itself encodes it, which gives the same greedy text as `transformers`. An empty prompt always
    begins a document."""

    batch_size: int = Field(default=32, ge=1)
    """Samples generated side by side at most; halved when the GPU's memory does not suffice."""

    @field_validator("temperature", mode="before")
    @classmethod
    def smallest_is_zero(cls, value: Any) -> Any:
        """A temperature by which logits cannot be divided without overflow stands for 0."""
        return 0.0 if isinstance(value, float) and 0 < value < SMALLEST_TEMPERATURE else value

    @property
    def is_greedy(self) -> bool:
        """Whether every token is the most likely one."""
        return self.temperature == 0
