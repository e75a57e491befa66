"""The bodies of responses. Every response is made by these classes, so the document of the API cannot differ from them.

It imports no torch.
"""

from __future__ import annotations

from typing import Any, Literal

from gptcli.serve.openai.schema import Schema

FinishWord = Literal["stop", "length"]
LOWEST_LOGPROB = -9999.0
"""Stands for every log-probability below it, as at OpenAI."""


class ErrorContent(Schema):
    """What is wrong with a request."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(Schema):
    """The body of every answer whose status is not 200."""

    error: ErrorContent


class PromptTokensDetails(Schema):
    """Details on the tokens of the prompts."""

    cached_tokens: int
    """Tokens that were not read again, since an earlier request began with them."""


class Usage(Schema):
    """Counts of the tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(Schema):
    """A likely token at a place."""

    token: str
    logprob: float
    bytes: list[int]
    id: int | None = None
    """Only with `return_token_ids`."""


class TokenLogprob(Schema):
    """A token of an answer."""

    token: str
    logprob: float
    bytes: list[int]
    """The token's bytes, which joined are the UTF-8 of the answer."""
    top_logprobs: list[TopLogprob]
    id: int | None = None
    """Only with `return_token_ids`."""


class TextLogprobs(Schema):
    """The tokens of a completion. All lists have one entry for each token."""

    tokens: list[str]
    """The text of each token; of one that is no whole character, its bytes as in "bytes:\\xe2\\x82"."""
    token_logprobs: list[float | None]
    """Log-probabilities in nats; null for the first token of a prompt, which nothing precedes."""
    top_logprobs: list[dict[str, float] | None]
    """The most likely tokens at each place, and the token itself."""
    text_offset: list[int]
    """The place of each token in the text, in characters."""
    content: list[TokenLogprob] | None = None
    """The tokens of the text in the form of answers; only with `return_token_ids`."""


class TextChoice(Schema):
    """One completion, or a piece of one in a stream."""

    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: FinishWord | None = None
    prompt_token_ids: list[int] | None = None
    """The ids of the prompt; only with `return_token_ids`, and in a stream only in the first piece."""
    token_ids: list[int] | None = None
    """The ids of the text, and that of the token that ended it; only with `return_token_ids`."""


class CompletionResponse(Schema):
    """Completions, or a piece of one in a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None
    system_fingerprint: str
    """Changes with the weights that are served."""


class ChoiceLogprobs(Schema):
    """The tokens of an answer."""

    content: list[TokenLogprob]
    refusal: None


class AnswerMessage(Schema):
    """An answer."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Schema):
    """One answer, and why it ended."""

    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None = None
    finish_reason: FinishWord
    prompt_token_ids: list[int] | None = None
    """The ids of the prompt; only with `return_token_ids`, and in a stream only in the first piece."""
    token_ids: list[int] | None = None
    """The ids of the text, and that of the token that ended it; only with `return_token_ids`."""


class ChatResponse(Schema):
    """Answers to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str
    """Changes with the weights that are served."""


class AnswerDelta(Schema):
    """What an answer has grown by."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(Schema):
    """A piece of an answer."""

    index: int
    delta: AnswerDelta
    logprobs: ChoiceLogprobs | None = None
    finish_reason: FinishWord | None = None
    prompt_token_ids: list[int] | None = None
    """The ids of the prompt; only with `return_token_ids`, and in a stream only in the first piece."""
    token_ids: list[int] | None = None
    """The ids of the text, and that of the token that ended it; only with `return_token_ids`."""


class ChatChunk(Schema):
    """The data of one event of a stream of answers."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    system_fingerprint: str
    """Changes with the weights that are served."""


class EmbeddingItem(Schema):
    """The vector of one text."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Schema):
    """Counts of the tokens of the texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(Schema):
    """The vectors of texts."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingUsage


class TokenizeResponse(Schema):
    """The ids of a text."""

    count: int
    max_model_len: int
    """The model's context length in tokens."""
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeResponse(Schema):
    """The text of ids."""

    prompt: str


class ModelCard(Schema):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    gptcli: dict[str, Any] | None = None
    """What the model is, on what it was trained, and how well it predicts text."""


class ModelList(Schema):
    """The models that are served."""

    object: Literal["list"]
    data: list[ModelCard]
