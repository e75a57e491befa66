"""The bodies of requests. It imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from gptcli.serve.openai.schema import (
    MOST_CHOICES,
    MOST_LOGPROBS,
    MOST_PROMPTS,
    GenerationFields,
    ModelChoice,
    Schema,
    StopString,
    TokenId,
    Whole,
)

Ids = Annotated[list[TokenId], Field(min_length=1)]
Texts = (
    str
    | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]
    | Ids
    | Annotated[list[Ids], Field(min_length=1, max_length=MOST_PROMPTS)]
)
"""One text or several, each as a text or as token ids."""
JsonObject = dict[str, Any]


class CompletionRequest(GenerationFields):
    """A request to continue texts."""

    prompt: Texts | None = None
    """The texts to continue: a text, several, the ids of one, or the ids of several. An empty one begins a document."""

    suffix: str | None = None
    """Not supported: anything but null or an empty text is refused."""

    echo: bool | None = None
    """Put the prompt before the completion; with `logprobs`, also the log-probabilities of its tokens."""

    logprobs: Annotated[Whole, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    """Return the log-probability of each token, and those of this many most likely tokens at its place. They are the
    model's own, before temperature, penalties and filters."""

    best_of: Annotated[Whole, Field(ge=1, le=MOST_CHOICES)] | None = None
    """Generate this many completions of each prompt, and return the `n` with the highest mean log-probability per
    token; not with `stream`."""

    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = None
    """Strings that end a completion, which ends before them. Empty strings are ignored."""


class ContentPart(Schema):
    """A part of a message's content. Only parts of text are supported; others are refused."""

    type: str
    text: str | None = None
    refusal: str | None = None


class CalledFunction(Schema):
    """The function of a call, and its arguments as JSON."""

    name: str
    arguments: str


class ToolCall(Schema):
    """A call of a tool in an earlier answer."""

    type: Literal["function"] = "function"
    id: str | None = None
    function: CalledFunction


class RequestMessage(Schema):
    """A message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    """Who wrote it. `developer` is read as `system` where the chat template does not know it."""

    content: str | list[ContentPart] | None = None
    """Its text, whole or in parts."""

    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class JsonSchemaFormat(Schema):
    """A JSON schema by which an answer is written."""

    name: str | None = None
    description: str | None = None
    schema_: JsonObject | None = Field(default=None, alias="schema")
    strict: bool | None = None
    """Ignored: the schema is always enforced."""


class ResponseFormat(Schema):
    """The form of an answer. Every answer that ends with "stop" has it; one cut at `max_tokens` begins with it."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class FunctionTool(Schema):
    """A tool that the model may call."""

    type: Literal["function"]
    function: JsonObject


class ChatRequest(GenerationFields):
    """A request to answer the last message of a conversation."""

    messages: Annotated[list[RequestMessage], Field(min_length=1, max_length=MOST_PROMPTS)]
    """The conversation so far."""

    max_tokens: Annotated[Whole, Field(ge=1, lt=2**31)] | None = None
    """Most tokens of an answer. It also ends where the model's context is full, unless `overflow` is "slide"."""

    max_completion_tokens: Annotated[Whole, Field(ge=1, lt=2**31)] | None = None
    """The newer name of `max_tokens`, which it overrides."""

    logprobs: bool | None = None
    """Return the log-probability of each token of the answer. They are the model's own, before temperature, penalties
    and filters."""

    top_logprobs: Annotated[Whole, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    """Return this many most likely tokens at each place; only with `logprobs`."""

    stop: StopString | Annotated[list[StopString], Field(max_length=4)] | None = None
    """Strings that end an answer, which ends before them. Empty strings are ignored."""

    response_format: ResponseFormat | None = None
    """The form of the answer, which is enforced while it is generated."""

    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    """Tools that the chat template describes to the model. Calls in the answer are not parsed: they are text."""

    tool_choice: str | JsonObject | None = None
    """`auto` or `none`; others are refused, since calls are not parsed."""

    modalities: list[str] | None = None
    """Only text is supported."""

    audio: JsonObject | None = None
    """Not supported."""

    functions: list[JsonObject] | None = None
    """Not supported: OpenAI's older form of `tools`."""

    function_call: str | JsonObject | None = None
    """Not supported: OpenAI's older form of `tool_choice`."""

    web_search_options: JsonObject | None = None
    """Not supported."""


class EmbeddingRequest(ModelChoice):
    """A request for vectors of texts."""

    input: Texts
    """The texts: a text, several, the ids of one, or the ids of several."""

    encoding_format: Literal["float", "base64"] | None = None
    """Numbers (the default), or the base64 of little-endian 32-bit floats."""

    dimensions: Annotated[Whole, Field(ge=1)] | None = None
    """Only the model's own width is supported."""

    normalize: bool | None = None
    """Whether each vector is divided by its length, as OpenAI's are (the default). Not OpenAI's."""


class TokenizeRequest(ModelChoice):
    """A request for the token ids of a text, or of a conversation up to where the assistant is to write."""

    prompt: str | None = None
    """The text; its ids are those that `/v1/completions` reads."""

    messages: Annotated[list[RequestMessage], Field(min_length=1, max_length=MOST_PROMPTS)] | None = None
    """The conversation, in place of a text; its ids are those that `/v1/chat/completions` reads."""

    add_special_tokens: bool | None = None
    """Whether a token that the model expects before each text is put there (the default)."""

    return_token_strs: bool | None = None
    """Return the text of each token too."""


class DetokenizeRequest(ModelChoice):
    """A request for the text of token ids."""

    tokens: list[TokenId]
    """The ids."""
