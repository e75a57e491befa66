"""Errors of the API in OpenAI's form: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from gptcli.errors import GptcliError, one_short_line

INVALID_REQUEST = "invalid_request_error"
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "server_error",
}
"""The type of an error by its status; that of any other is INVALID_REQUEST."""
JSON_ERROR = "json_invalid"
"""Pydantic's name for a body that is not JSON."""
LONGEST_LIST = 3
"""Most mistakes of one request that are named."""


class ApiError(Exception):
    """An answer other than 200.

    Attributes:
        status: the status of the HTTP response.
        message: what is wrong, for a person. It never holds a path of this machine.
        type: the kind of error, by which OpenAI's clients tell them apart.
        param: the field of the request that is wrong, if it is one.
        code: a word for programs, if there is one.
        headers: headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status, self.message, self.param, self.code = status, one_short_line(message), param, code
        self.type = TYPES.get(status, INVALID_REQUEST)
        self.headers = dict(headers or {})
        super().__init__(self.message)

    def body(self) -> dict[str, Any]:
        """Return the content of the response."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Return the error for a request that asks for something impossible: 400."""
    return ApiError(400, message, param=param, code=code)


def unsupported(param: str, remedy: str) -> ApiError:
    """Return the error for a field that the server knows but cannot obey: 400."""
    return ApiError(400, f"{param} is not supported; {remedy}", param=param, code="unsupported_parameter")


def model_not_found(name: str, known: Sequence[str]) -> ApiError:
    """Return the error for a name that no model has: 404."""
    message = f"the model {name[:100]!r} does not exist; this server has {', '.join(known)}"
    return ApiError(404, message, param="model", code="model_not_found")


def context_length_exceeded(param: str, count: int, context: int) -> ApiError:
    """Return the error for a prompt of `count` tokens that is longer than the model's context: 400."""
    return ApiError(
        400,
        f"the prompt has {count} tokens, and the model's context length is {context} tokens; shorten it",
        param=param,
        code="context_length_exceeded",
    )


def validation_error(error: ValidationError) -> ApiError:
    """Return the error for a body that is not JSON or not the JSON of a request: 400."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    first = found[0]
    if first["type"] == JSON_ERROR:
        reason = first["msg"].removeprefix("Invalid JSON: ")
        return ApiError(400, f"the body is not JSON: {reason}", code="invalid_json")
    mistakes = dict[object, Any]()
    for mistake in found:  # of a field that may have several forms, what was wrong with the one that fitted best
        field = mistake["loc"][0] if mistake["loc"] else None
        if field not in mistakes or len(mistake["loc"]) > len(mistakes[field]["loc"]):
            mistakes[field] = mistake
    shown = [f"{'.'.join(map(str, mistake['loc'])) or 'the body'}: {mistake['msg']}" for mistake in mistakes.values()]
    rest = len(shown) - LONGEST_LIST
    message = "; ".join([*shown[:LONGEST_LIST], *([f"and {rest} more"] if rest > 0 else [])])
    return ApiError(400, message, param=str(first["loc"][0]) if first["loc"] else None, code="invalid_value")


def request_error(error: GptcliError, param: str | None = None) -> ApiError:
    """Return the error for a request that the model cannot read: 400. The remedy, which is of the command line, is left
    out.
    """
    return ApiError(400, error.message, param=param)
