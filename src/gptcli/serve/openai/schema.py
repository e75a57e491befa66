"""The base of the schemas, and what requests of all kinds of generation share. It imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MOST_CHOICES = 128
"""Most answers to one prompt."""
MOST_PROMPTS = 2048
"""Most prompts of one request."""
MOST_LOGPROBS = 20
"""Most alternatives to a token."""
MOST_BIASES = 1024
"""Most entries of `logit_bias`."""
LONGEST_STOP = 512
"""Most characters of a stop string."""
INT64 = 2**63


def whole(value: Any) -> Any:
    """Return a number without its decimal point if nothing follows it: to JSON, 1.0 is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(whole)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
BIAS_KEYS = {"propertyNames": {"pattern": "^(0|[1-9][0-9]{0,8})$"}}
StopString = Annotated[str, Field(max_length=LONGEST_STOP)]


class Schema(BaseModel):
    """An object of the API. Keys that it does not name are ignored, since OpenAI's clients send ever more of them."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def json_bytes(self) -> bytes:
        """Return the object as JSON, with the keys that were given to it."""
        return self.model_dump_json(exclude_unset=True).encode()


class StreamOptions(Schema):
    """Options of a stream."""

    include_usage: bool | None = None
    """Send the usage in a chunk of its own, without choices, before the end of the stream."""


class ModelChoice(Schema):
    """The model that a request is for."""

    model: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """The name of a model that `/v1/models` lists. It may be left out where the server has one model."""


class GenerationFields(ModelChoice):
    """What requests for completions and for answers have in common.

    A field that is null has its default. `top_k`, `min_p`, `repetition_penalty`, `overflow` and `return_token_ids` are
    not OpenAI's.
    """

    n: Annotated[Whole, Field(ge=1, le=MOST_CHOICES)] | None = None
    """Answers to each prompt; 1 by default. Each is drawn with a seed of its own."""

    max_tokens: Annotated[Whole, Field(ge=0, lt=2**31)] | None = None
    """Most tokens of an answer. An answer also ends where the model's context is full, unless `overflow` is "slide"."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Divisor of the logits: 1 by default, and 0 always takes the most likely token."""

    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Draw only from the most likely tokens that together have this probability."""

    top_k: Annotated[Whole, Field(ge=-1, lt=2**31)] | None = None
    """Draw only from the k most likely tokens; 0 or -1 draws from all."""

    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Drop tokens whose probability is below this fraction of the highest."""

    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    """Above 1, makes tokens that occur in the prompt or the answer so far less likely."""

    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Is subtracted from the logits of tokens that occur in the answer so far."""

    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Is subtracted from the logit of a token once for each time that it occurs in the answer so far."""

    logit_bias: (
        Annotated[
            dict[TokenId, Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=MOST_BIASES, json_schema_extra=BIAS_KEYS),
        ]
        | None
    ) = None
    """Numbers that are added to the logits of tokens, by the tokens' ids."""

    seed: Annotated[Whole, Field(ge=-INT64, lt=INT64)] | None = None
    """Seed of the first answer; answer i is drawn with seed + i. The same request with the same seed gets the same
    answers. Without one, a random seed is chosen."""

    stream: bool | None = None
    """Send the answer as server-sent events while it is generated."""

    stream_options: StreamOptions | None = None
    """Options of the stream; only with `stream`."""

    overflow: Literal["slide", "stop"] | None = None
    """What happens when the model's context is full: "stop" (the default) ends the answer with finish_reason "length";
    "slide" keeps the last half of the context and goes on, as `gptcli generate` does."""

    return_token_ids: bool | None = None
    """Return the ids of the prompt and of the text too. Not OpenAI's."""
