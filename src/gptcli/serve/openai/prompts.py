"""The ids of what a request gives: texts, ids, conversations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gptcli import strict_json
from gptcli.data.chat import is_read
from gptcli.errors import DataError
from gptcli.generate.config import GenerationConfig
from gptcli.generate.text import encode_prompt
from gptcli.serve.models import ServedModel
from gptcli.serve.openai.errors import ApiError, request_error, unsupported
from gptcli.serve.openai.request_schemas import FunctionTool, RequestMessage, Texts

AS_IN_TRAINING = GenerationConfig()
"""Prompts are read as `gptcli generate` reads them by default."""
ROLE_OF_TOOLS = {"function": "tool"}
"""Older names of roles."""


def listed(texts: Texts) -> list[str | list[int]]:
    """Return one text or several as a list."""
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts[0], int):
        return [[token for token in texts if isinstance(token, int)]]
    return [text for text in texts if isinstance(text, str | list)]


async def text_ids(served: ServedModel, texts: Sequence[str | list[int]], param: str) -> list[list[int]]:
    """Return the ids of texts, at least one each.

    Raises:
        ApiError: the tokenizer cannot represent a text, or a text is empty and the model knows no beginning of one.
    """

    def encode() -> list[list[int]]:
        return [
            encode_prompt(served.session.tokenizer, text, AS_IN_TRAINING, name_of(number, texts))
            if isinstance(text, str)
            else text
            for number, text in enumerate(texts)
        ]

    if all(isinstance(text, list) for text in texts):
        return encode()
    try:
        return await served.pool.run(encode)
    except DataError as error:
        raise request_error(error, param) from error


def name_of(number: int, texts: Sequence[object]) -> str:
    """Return the name of a text in messages."""
    return "the prompt" if len(texts) == 1 else f"prompt {number + 1}"


async def conversation_ids(
    served: ServedModel, messages: Sequence[RequestMessage], tools: Sequence[FunctionTool] | None = None
) -> list[int]:
    """Return the ids of a conversation up to where the assistant is to write.

    Raises:
        ApiError: the model has no chat template, or cannot read the conversation by it.
    """
    source = served.session.tokenizer.chat_template or ""
    plain = [plain_message(message, number, source) for number, message in enumerate(messages)]
    described = [tool.model_dump(mode="json") for tool in tools or ()] or None
    try:
        return await served.chat_ids(plain, described)
    except DataError as error:
        raise request_error(error, "messages") from error


def plain_message(message: RequestMessage, number: int, template: str) -> dict[str, Any]:
    """Return a message as chat templates get it.

    Raises:
        ApiError: it has a part that is not text.
    """
    role = ROLE_OF_TOOLS.get(message.role, message.role)
    if role == "developer" and "developer" not in template:
        role = "system"
    found: dict[str, Any] = {"role": role, "content": content_of(message, number)}
    for key in ("name", "tool_call_id"):
        if value := getattr(message, key):
            found[key] = value
    if message.reasoning_content and is_read("reasoning_content", template):
        found["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        found["tool_calls"] = [
            {
                **({"id": call.id} if call.id else {}),
                "type": call.type,
                "function": {"name": call.function.name, "arguments": parsed_arguments(call.function.arguments)},
            }
            for call in message.tool_calls
        ]
    return found


def content_of(message: RequestMessage, number: int) -> str:
    """Return the text of a message.

    Raises:
        ApiError: it has a part that is not text.
    """
    if not isinstance(message.content, list):
        return message.content or ""
    texts = []
    for place, part in enumerate(message.content):
        text = part.refusal if part.type == "refusal" else part.text
        if part.type not in ("text", "refusal") or text is None:
            error = unsupported(
                f"messages.{number}.content.{place}.type={part.type[:40]}", "send parts of type text only"
            )
            raise ApiError(400, error.message, param="messages", code=error.code)
        texts.append(text)
    return "".join(texts)


def parsed_arguments(text: str) -> Any:
    """Return the arguments of a call as templates expect them: as an object, if they are the JSON of one."""
    try:
        value = strict_json.parse(text)
    except ValueError:
        return text
    return value if isinstance(value, dict) else text
