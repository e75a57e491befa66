"""The texts in the rows of .jsonl, .csv, .parquet and .arrow files.

Rows are read one at a time. Knows nothing of documents, splits or tokens; every error names the file and the row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from gptcli.data.chat import ChatRenderer
from gptcli.data.columns import column_rows
from gptcli.data.config import DataConfig
from gptcli.data.conversations import conversation_fields, conversation_of
from gptcli.data.csv_rows import csv_rows
from gptcli.data.file_formats import SourceFile
from gptcli.data.formats import Decoding, read_text
from gptcli.data.json_rows import json_rows, split_lines
from gptcli.errors import DataError

DEFAULT_FIELD = "text"


def read_rows(
    file: SourceFile, config: DataConfig, decoding: Decoding, start: int = 0, stop: int | None = None
) -> Iterator[str]:
    """The text field of every row of a file of rows; a null is an empty text.

    With `stop` only the rows in bytes start..stop-1, or of a .parquet file in those row groups.

    Where a row has a list there, it is a conversation, and the template makes its text. So it does where the field is
    DEFAULT_FIELD, the row has none, and is in one of the forms of conversations.py.

    Raises:
        DataError: a row cannot be read, lacks the field (the message lists those it has), or has no text in it.
    """
    renderer: ChatRenderer | None = None
    text_field = config.text_field
    with contextlib.ExitStack() as stack:
        for place, row in rows_of(file, config, decoding, start, stop):
            fields = text_fields(text_field, row)
            if not fields:
                raise missing_field(place, text_field, row)
            value = row[text_field] if fields == (text_field,) else conversation_of(row)
            if isinstance(value, list):
                renderer = renderer or stack.enter_context(ChatRenderer(config.chat_template))
                value = renderer.render(value, place)
            if not isinstance(value, str | None):
                raise DataError(f"field {fields[0]!r} of {place} is no text but {type(value).__name__}")
            yield without_surrogates(value or "", place, decoding)


def rows_of(
    file: SourceFile, config: DataConfig, decoding: Decoding, start: int, stop: int | None
) -> Iterator[tuple[object, dict[str, Any]]]:
    """(place, row) pairs; of files of columns only those that `text_fields` names."""
    path, name, kind = file.path, file.name, file.format
    if kind in ("parquet", "arrow"):

        def choose(names: Sequence[str]) -> tuple[str, ...]:
            fields = text_fields(config.text_field, names)
            if not fields:
                raise missing_field(name, config.text_field, names)
            return fields

        return column_rows(file, choose, decoding, start, stop)
    lines = split_lines(read_text(path, name, decoding, start, stop), name)
    if kind in ("csv", "tsv"):
        return csv_rows(lines, name, "," if kind == "csv" else "\t")
    return json_rows(lines, name, path, start)


def text_fields(text_field: str, names: Collection[str]) -> tuple[str, ...]:
    """Of a row's fields those that hold its text; none where it has none."""
    if text_field in names:
        return (text_field,)
    return conversation_fields(names) if text_field == DEFAULT_FIELD else ()


def missing_field(place: object, text_field: str, fields: Iterable[str]) -> DataError:
    return DataError(
        f"{place} has no field {text_field!r}; its fields are {', '.join(map(str, fields))}",
        "name one with --set data.text_field=...",
    )


def without_surrogates(text: str, place: object, decoding: Decoding) -> str:
    r"""JSON can write half a character ("\ud83d"), which no UTF-8 text can hold."""
    if text.isascii():
        return text
    try:
        return decoding.without_surrogates(text)
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place} has half a surrogate pair at character {error.start:,}",
            "repair the row, or put U+FFFD there with --set data.encoding_errors=replace",
        ) from error
