"""The texts in the rows of JSON, CSV, TSV, .parquet and .arrow files.

Rows are read one at a time; every error names the file and the row.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_never

from gptcli import strict_json
from gptcli.data.chat import ChatRenderer
from gptcli.data.columns import column_rows
from gptcli.data.config import DataConfig
from gptcli.data.conversations import MESSAGE_FIELDS, conversation_of
from gptcli.data.csv_rows import csv_rows
from gptcli.data.decoding import Decoding, read_text
from gptcli.data.fields import FieldSelection, no_text_error, refuse_repeated
from gptcli.data.file_formats import SourceFile
from gptcli.data.json_rows import json_lines, json_values, split_lines
from gptcli.data.recognize import json_layout, read_prefix
from gptcli.errors import DataError


def read_rows(
    file: SourceFile, config: DataConfig, decoding: Decoding, start: int = 0, stop: int | None = None
) -> Iterator[str]:
    """Iterate over the text field of every row of a file of rows; a null is an empty text.

    With `stop` only the rows in bytes start..stop-1 are read, or of a .parquet file those in these row groups.

    If a row has a list there, it is a conversation, and the template makes its text; likewise if the field is
    DEFAULT_FIELD, the row lacks it, and is in one of the forms of conversations.py.

    Raises:
        DataError: a row cannot be read, lacks the field (the message lists those it has), or has no text in it.
    """
    renderer: ChatRenderer | None = None
    selection = FieldSelection.in_rows_of(config)
    with contextlib.ExitStack() as stack:
        for place, row in rows_of(file, config, selection, decoding, (start, stop)):
            fields = selection.of(row)
            if not fields:
                raise missing_fields_error(place, selection, row, file.name)
            refuse_repeated(place, row, fields)
            is_text = fields == (config.text_field,) and not selection.named
            value = row[config.text_field] if is_text else conversation_of(selection.renamed(row))
            if isinstance(value, list) and any(isinstance(item, dict) for item in value):
                for message in value:
                    refuse_repeated(place, message, MESSAGE_FIELDS)
                renderer = renderer or stack.enter_context(ChatRenderer(config.chat_template, config.chat_date))
                value = renderer.render(value, place)
            elif value is None or value == [] or value != value:  # NaN, which some programs write for no text
                value = ""
            if not isinstance(value, str):
                raise no_text_error(place, fields[0], value)
            yield without_surrogates(value, place, decoding)


def missing_fields_error(place: object, selection: FieldSelection, row: dict[str, Any], name: str) -> DataError:
    """Return the error for a row that lacks the fields; if it holds a list of rows, the remedy extracts them."""
    rows = next((key for key, value in row.items() if is_list_of_rows(value, selection)), None)
    if rows is None:
        lengths = {key: len(value) for key, value in row.items() if isinstance(value, str)}
        likely = shlex.quote(max(lengths, key=lengths.__getitem__)) if lengths else "..."
        return selection.missing_error(place, row, likely)
    return DataError(
        f"{place} has no {selection.lacking()}, and its field {rows!r} is a list of rows",
        f"write them into a file of their own: jq -c {shlex.quote(f'.[{strict_json.dumps(rows)}][]')} "
        f"{shlex.quote(name)} > rows.jsonl",
    )


def is_list_of_rows(value: Any, selection: FieldSelection) -> bool:
    """Return whether a value is a list of objects that have the fields."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and bool(selection.of(value[0]))


def rows_of(
    file: SourceFile,
    config: DataConfig,
    selection: FieldSelection,
    decoding: Decoding,
    section: tuple[int, int | None] = (0, None),
) -> Iterator[tuple[object, dict[str, Any]]]:
    """Iterate over (place, row) pairs; rows of CSV and of files of columns have only the fields of `selection`.

    `section` has the first byte, and the one after the last one, or those of row groups of a .parquet file.
    """
    path, name = file.path, file.name
    start, stop = section
    text = read_text(path, name, decoding, start, stop)
    match file.format:
        case "parquet" | "arrow":
            return column_rows(file, selection, decoding, start, stop)
        case "csv":
            return csv_rows(text, name, config, selection, ",")
        case "tsv":
            return csv_rows(text, name, config, selection, "\t")
        case "json":
            return json_values(text, name)
        case "jsonl" | "text":  # corpus.py reads plain text itself
            return json_lines(split_lines(text, name), name, path, start)
        case other:
            assert_never(other)


def json_rows(path: Path, name: str) -> Iterator[tuple[object, dict[str, Any]]]:
    """Iterate over (place, row) pairs of a file of JSON in UTF-8 with all their fields, whatever its layout and
    ending.
    """
    text = read_text(path, name, Decoding())
    if json_layout(*read_prefix(path, DataConfig())) == "json":
        return json_values(text, name)
    return json_lines(split_lines(text, name), name, path)


def without_surrogates(text: str, place: object, decoding: Decoding) -> str:
    r"""Return `text` without half surrogate pairs, which JSON can write ("\ud83d") and no UTF-8 text can hold."""
    if text.isascii():
        return text
    try:
        return decoding.without_surrogates(text)
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place} has half a surrogate pair at character {error.start:,}",
            "repair the row, or put U+FFFD there with --set data.encoding_errors=replace",
        ) from error
