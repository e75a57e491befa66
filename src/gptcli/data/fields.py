"""The fields of a row that hold its text, whatever the file format."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from gptcli.data.conversations import conversation_fields
from gptcli.errors import DataError

DEFAULT_FIELD = "text"


class RowPlace(NamedTuple):
    """Row `number` of a file, not counting a header, which begins on line `line`."""

    number: int
    line: int
    name: str

    def __str__(self) -> str:
        return f"row {self.number} of {self.name} (line {self.line})"


def text_fields(text_field: str, names: Collection[str]) -> tuple[str, ...]:
    """Return the fields of a row that hold its text; an empty tuple if it has none."""
    if text_field in names:
        return (text_field,)
    return conversation_fields(names) if text_field == DEFAULT_FIELD else ()


def missing_field_error(place: object, text_field: str, fields: Iterable[str], likely: str = "...") -> DataError:
    """Return the error for a row without a text; `likely` is the field that may be meant, quoted for a shell."""
    return DataError(
        f"{place} has no field {text_field!r}; its fields are {', '.join(map(str, fields))}",
        f"name the one that holds the text with --set data.text_field={likely}",
    )


class RepeatedKeys(dict[str, Any]):
    """An object in which some keys occur more than once; it holds their last values."""

    def __init__(self, pairs: Iterable[tuple[str, Any]], repeated: Collection[str]) -> None:
        super().__init__(pairs)
        self.repeated = frozenset(repeated)


def refuse_repeated(place: object, value: Any, fields: Collection[str]) -> None:
    """Raise a DataError if one of `fields` of an object occurs more than once."""
    if isinstance(value, RepeatedKeys) and (twice := sorted(value.repeated.intersection(fields))):
        raise DataError(f"{place} has the key {twice[0]!r} more than once", "remove or rename one of them")


def no_text_error(place: object, field: str, value: Any) -> DataError:
    """Return the error for a field whose value is neither a text nor a conversation."""
    return DataError(
        f"field {field!r} of {place} holds {described(value)}, not a text",
        "write a text there, or name another field with --set data.text_field=...",
    )


def described(value: Any) -> str:
    """Return the kind of a value, in words."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, dict):
        return f"an object with the fields {', '.join(map(str, value))}"
    if isinstance(value, list):
        return "a list of texts" if all(isinstance(item, str) for item in value) else "a list"
    return f"a value of type {type(value).__name__}"
