"""One writer of JSON: a number that is not finite becomes a string, the rest is as `json.dumps` writes it."""

from __future__ import annotations

import json
import math

import pytest

from gptcli import strict_json


def refuse(constant: str) -> float:
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [1, x], lambda x: {"a": {"b": (x, 1.5)}}])
def test_numbers_that_are_not_finite_are_strings_that_read_back(value, wrap) -> None:
    text = strict_json.dumps(wrap(value))
    assert "finite" not in json.dumps(json.loads(text, parse_constant=refuse))
    assert repr(strict_json.loads(text)) == repr(wrap(value)).replace("(", "[").replace(")", "]")


def test_everything_else_is_written_as_by_the_standard_library() -> None:
    value = {"b": [1, 2.5, None, True, "é\ud800"], "a": {"1": 1e-320}}
    assert strict_json.dumps(value) == json.dumps(value)
    assert strict_json.dumps(value, sort_keys=True, separators=(",", ":")) == json.dumps(
        value, sort_keys=True, separators=(",", ":")
    )
    assert strict_json.dumps(value, indent=2, ensure_ascii=False) == json.dumps(value, indent=2, ensure_ascii=False)


@pytest.mark.parametrize(
    "text", [b"[" * 10**6, '{"a":' * 10**6, b"\xff", b"", "9" * 10**6], ids=lambda text: repr(text[:8])
)
def test_what_cannot_be_read_is_a_value_error(text: bytes | str) -> None:
    with pytest.raises(ValueError):
        strict_json.parse(text)
