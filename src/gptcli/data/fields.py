"""The fields of a row that are read, whatever the file format."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, assert_never

from gptcli.data.config import Content, DataConfig
from gptcli.data.conversations import (
    ANSWERS,
    CHOSEN,
    CONVERSATIONS,
    QUESTIONS,
    REJECTED,
    TOOLS,
    conversation_fields,
    first,
    preference_fields,
)
from gptcli.errors import DataError

DEFAULT_FIELD = "text"


class RowPlace(NamedTuple):
    """Row `number` of a file, not counting a header, which begins on line `line`."""

    number: int
    line: int
    name: str

    def __str__(self) -> str:
        return f"row {self.number} of {self.name} (line {self.line})"


class FieldSelection(NamedTuple):
    """The fields that are read of a row.

    `named` are the names of the user's own (`data.fields`) by the names that they stand for; without any, the known
    forms are recognised.
    """

    content: Content = "text"
    text_field: str = DEFAULT_FIELD
    named: tuple[tuple[str, str], ...] = ()

    @classmethod
    def in_rows_of(cls, config: DataConfig, content: Content | None = None) -> FieldSelection:
        """Return the selection that a configuration makes, or would make for another kind of content."""
        return cls(content or config.kind, config.text_field, tuple(config.fields.named.items()))

    def of(self, names: Collection[str]) -> tuple[str, ...]:
        """Return the fields of a row that are read; an empty tuple if it lacks them."""
        if self.named:
            wanted = tuple(name for _, name in self.named)
            return wanted if set(wanted) <= set(names) else ()
        is_alone = first(CONVERSATIONS, names) is not None
        match self.content:
            case "text":
                return text_fields(self.text_field, names)
            case "examples":
                beside = (*TOOLS, CHOSEN, REJECTED, *(() if is_alone else (*QUESTIONS, *ANSWERS, "label")))
                found = conversation_fields(names) or preference_fields(names)
            case "preferences":
                beside = (*TOOLS, *(() if is_alone else QUESTIONS))
                found = preference_fields(names)
            case other:
                assert_never(other)
        more = tuple(name for name in beside if name in names and name not in found)
        return (*found, *more) if found else ()

    def choose(self, names: Collection[str], place: object) -> tuple[str, ...]:
        """Return the fields of a row that are read. Raises DataError if it lacks them."""
        fields = self.of(names)
        if not fields:
            raise self.missing_error(place, names)
        return fields

    def renamed(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a row whose fields have the names that they are known by; only those that are read, if the user named
        them.
        """
        return {key: row[name] for key, name in self.named} if self.named else row

    def lacking(self, unit: str = "field") -> str:
        """Return the words for the fields of a row that does not have them."""
        if self.named:
            return f"{unit}s {', '.join(repr(name) for _, name in self.named)}"
        return {
            "text": f"{unit} {self.text_field!r}",
            "examples": f"{unit}s of an example in a known form",
            "preferences": f"{unit}s {CHOSEN!r} and {REJECTED!r}",
        }[self.content]

    def option(self, likely: str = "...") -> str:
        """Return the options that name the fields; `likely` is the one that may hold a text, quoted for a shell."""
        if self.named:
            return " ".join(f"--set data.fields.{key}=..." for key, _ in self.named)
        return {
            "text": f"--set data.text_field={likely}",
            "examples": "--set data.fields.prompt=... --set data.fields.completion=...",
            "preferences": "--set data.fields.prompt=... --set data.fields.chosen=... --set data.fields.rejected=...",
        }[self.content]

    def option_of_two(self, names: Sequence[str]) -> str:
        """Return the options that read a row of two fields as a prompt and its answer; empty for any other row."""
        if self.content != "examples" or self.named or len(names) != 2:
            return ""
        prompt, completion = map(shlex.quote, names)
        return f"--set data.fields.prompt={prompt} --set data.fields.completion={completion}"

    def missing_error(self, place: object, names: Iterable[str], likely: str = "...") -> DataError:
        """Return the error for a row without the fields."""
        names = [str(name) for name in names]
        if self.content == "text" and not self.named:
            return missing_field_error(place, self.text_field, names, likely)
        if self.content == "preferences" and not self.named:
            lacking = next((name for name in (CHOSEN, REJECTED) if name not in names), "")
            if CHOSEN in names or REJECTED in names:
                return DataError(f"{place} has no field {lacking!r}", "write two answers in each row, or remove it")
            if conversation_fields(names):
                return DataError(
                    f"{place} has one answer, and a preference has two",
                    "leave out --method dpo, or write the answers into 'chosen' and 'rejected'",
                )
        return DataError(
            f"{place} has no {self.lacking()}; its fields are {', '.join(names)}",
            f"name those that hold them: {self.option_of_two(names) or self.option(likely)}",
        )


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
    return "a text" if isinstance(value, str) else f"a value of type {type(value).__name__}"
