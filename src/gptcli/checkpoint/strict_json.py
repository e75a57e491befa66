"""JSON that every reader accepts. Numbers that are not finite, which JSON lacks, are the strings "NaN", "Infinity" and
"-Infinity", and become numbers again when read."""

from __future__ import annotations

import json
import math
from typing import Any

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def dumps(value: Any, *, indent: int | None = None) -> str:
    """One JSON text; floats are written so that they read back to the same bits. TypeError for what is not JSON."""
    return json.dumps(without_non_finite(value), ensure_ascii=False, allow_nan=False, indent=indent)


def loads(text: str | bytes) -> Any:
    """The inverse of `dumps`; tuples come back as lists.

    Raises:
        ValueError: the text is not JSON, or nested deeper than any file of ours.
    """
    try:
        return with_non_finite(json.loads(text))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def without_non_finite(value: Any) -> Any:
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: without_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_non_finite(item) for item in value]
    return value


def with_non_finite(value: Any) -> Any:
    if isinstance(value, str):
        return NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: with_non_finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_non_finite(item) for item in value]
    return value
