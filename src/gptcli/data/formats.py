"""From one file to its text: UTF-8 decoding, and the texts in the rows of .jsonl, .csv, .parquet and .arrow files.

Everything is read in pieces of bounded size. Knows nothing of documents, splits or tokens; every error names the file
and the place in it.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gptcli.data.chat import CHATML, ChatRenderer
from gptcli.data.columns import COLUMN_FORMATS, column_rows
from gptcli.data.compression import format_of, read_bytes
from gptcli.data.conversations import conversation_fields, conversation_of
from gptcli.errors import DataError

MAX_ROW_CHARACTERS = 1 << 30
ROW_FORMATS = frozenset({".jsonl", ".ndjson", ".json", ".csv"}) | COLUMN_FORMATS
DEFAULT_FIELD = "text"


class Line(NamedTuple):
    """Line `number` of what begins at byte `start` of a file, in the words of an error: only then are the lines before
    it counted."""

    number: int
    path: Path
    name: str
    start: int

    def __str__(self) -> str:
        before, left = 0, self.start
        if left:
            with self.path.open("rb") as file:
                while left and (chunk := file.read(min(left, 1 << 20))):
                    before += chunk.count(b"\n")
                    left -= len(chunk)
        return f"line {before + self.number} of {self.name}"


def read_text(path: Path, name: str, errors: str, start: int = 0, stop: int | None = None) -> Iterator[str]:
    """The text of a UTF-8 file in chunks, without its byte order mark; line ends stay as they are.

    `errors` is `strict` or `replace`. With `stop` only bytes start..stop-1, which begin and end with a character.

    Raises:
        DataError: a byte is not UTF-8; the message says where it is (counted from 0, after decompression).
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    offset, is_start = start, start == 0
    for chunk in read_bytes(path, name, start, stop):
        text = decode(decoder, chunk, False, offset, name)
        offset += len(chunk)
        if text:
            yield text.removeprefix("\ufeff") if is_start else text
            is_start = False
    if text := decode(decoder, b"", True, offset, name):
        yield text


def decode(decoder: codecs.IncrementalDecoder, chunk: bytes, final: bool, offset: int, name: str) -> str:
    """Decode `chunk`, which starts at byte `offset`; bytes of a character begun before are held by the decoder."""
    held, _ = decoder.getstate()
    try:
        return decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        place = offset - len(held) + error.start
        is_utf16 = place == 0 and chunk[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        remedy = (
            "it looks like UTF-16: convert it (iconv -f UTF-16 -t UTF-8)"
            if is_utf16
            else "convert the file, or put U+FFFD there with --set data.encoding_errors=replace"
        )
        raise DataError(f"{name} is not UTF-8 at byte {place:,}", remedy) from error


def read_rows(
    path: Path,
    name: str,
    text_field: str,
    errors: str,
    chat_template: str = CHATML,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[str]:
    """The text field of every row of a .jsonl, .csv, .parquet or .arrow file; a null is an empty text.

    With `stop` only the rows in bytes start..stop-1, or of a .parquet file in those row groups.

    Where a row has a list there, it is a conversation, and the template makes its text. So it does where the field is
    DEFAULT_FIELD, the row has none, and is in one of the forms of conversations.py.

    Raises:
        DataError: a row cannot be read, lacks the field (the message lists those it has), or has no text in it.
    """
    renderer: ChatRenderer | None = None
    with contextlib.ExitStack() as stack:
        for place, row in rows_of(path, name, text_field, errors, start, stop):
            fields = text_fields(text_field, row)
            if not fields:
                raise missing_field(place, text_field, row)
            value = row[text_field] if fields == (text_field,) else conversation_of(row)
            if isinstance(value, list):
                renderer = renderer or stack.enter_context(ChatRenderer(chat_template))
                value = renderer.render(value, place)
            if not isinstance(value, str | None):
                raise DataError(f"field {fields[0]!r} of {place} is no text but {type(value).__name__}")
            yield without_surrogates(value or "", place, errors)


def rows_of(
    path: Path, name: str, text_field: str, errors: str, start: int, stop: int | None
) -> Iterator[tuple[object, dict[str, Any]]]:
    """(place, row) pairs; of files of columns only those that `text_fields` names."""
    kind = format_of(path)
    if kind in COLUMN_FORMATS:

        def choose(names: Sequence[str]) -> tuple[str, ...]:
            fields = text_fields(text_field, names)
            if not fields:
                raise missing_field(name, text_field, names)
            return fields

        return column_rows(path, name, choose, errors, start, stop)
    lines = split_lines(read_text(path, name, errors, start, stop), name)
    return csv_rows(lines, name) if kind == ".csv" else json_rows(lines, name, path, start)


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


def without_surrogates(text: str, place: object, errors: str) -> str:
    r"""JSON can write half a character ("\ud83d"), which no UTF-8 text can hold."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if errors == "strict":
            raise DataError(
                f"{place} has half a surrogate pair at character {error.start:,}",
                "mend the row, or put U+FFFD there with --set data.encoding_errors=replace",
            ) from error
        return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)
    return text


def split_lines(chunks: Iterable[str], name: str) -> Iterator[str]:
    r"""Lines with their "\n", and nothing else taken for a line end, as JSON lines and csv want it."""
    held = ""
    for chunk in chunks:
        held += chunk
        if "\n" in chunk:
            *lines, held = held.split("\n")
            for line in lines:
                yield line + "\n"
        if len(held) > MAX_ROW_CHARACTERS:
            raise DataError(f"{name} has a row of more than {MAX_ROW_CHARACTERS:,} characters", "is it a text file?")
    if held:
        yield held


def json_rows(
    lines: Iterable[str], name: str, path: Path = Path(), start: int = 0
) -> Iterator[tuple[object, dict[str, Any]]]:
    """Rows with their places; `lines` are those from byte `start` of the file `path` on, which is read to name a place
    that is not counted from its beginning."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = Line(number, path, name, start)
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place} is not JSON: {error}", "write one JSON object a line") from error
        if not isinstance(row, dict):
            raise DataError(f"{place} is no JSON object but {type(row).__name__}", "write one JSON object a line")
        yield place, row


def csv_rows(lines: Iterable[str], name: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows by the names in the first line; rows are counted from 1 after it."""
    csv.field_size_limit(MAX_ROW_CHARACTERS)
    reader = csv.reader(lines)
    number = 0
    try:
        header = next(reader, [])
        for values in reader:
            if values:
                number += 1
                yield f"row {number} of {name}", dict(zip(header, values, strict=False))
    except csv.Error as error:
        raise DataError(f"row {number + 1} of {name} is not CSV: {error}", "mend the file") from error
