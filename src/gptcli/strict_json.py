"""JSON that every reader accepts: the only module of this package that writes and reads JSON.

JSON has no numbers that are not finite. `dumps` writes them as the strings "NaN", "Infinity" and "-Infinity", and
`loads` turns these into numbers again. A value that does not exist is None, with its reason beside it, and never NaN.
"""

from __future__ import annotations

import json
import math
from typing import Any

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def dumps(value: Any, **options: Any) -> str:
    """Return one JSON text, whose floats read back to the same bits. The options are those of `json.dumps`.

    Raises:
        TypeError: the value is not JSON.
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        return json.dumps(without_non_finite(value), allow_nan=False, **options)


def loads(text: str | bytes) -> Any:
    """Return the value of a text that `dumps` wrote; tuples become lists.

    Raises:
        ValueError: the text is not JSON, or nested deeper than any file of ours.
    """
    return with_non_finite(parse(text))


def parse(text: str | bytes) -> Any:
    """Return the value of a JSON text from any source; its strings stay as they are.

    Raises:
        ValueError: the text is not JSON, or nested too deeply to be read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def without_non_finite(value: Any) -> Any:
    """Return the value with a string for every number that is not finite."""
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {without_non_finite(key): without_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_non_finite(item) for item in value]
    return value


def with_non_finite(value: Any) -> Any:
    """Return the value with the number for every string that `without_non_finite` writes."""
    if isinstance(value, str):
        return NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: with_non_finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_non_finite(item) for item in value]
    return value
