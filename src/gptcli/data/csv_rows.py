"""The rows of CSV and TSV files, read strictly: a row that does not fit the header is an error and never guessed at.

csv_errors.py makes the errors about rows.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

from gptcli.data.config import DataConfig
from gptcli.data.csv_dialect import Dialect
from gptcli.data.csv_errors import (
    Record,
    header_error,
    quotes_after_space,
    repeated_column_error,
    row_error,
    spaced_quote_error,
    unnamed_column_error,
)
from gptcli.data.fields import FieldSelection, RowPlace
from gptcli.data.json_rows import split_lines

SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
"""Matches the first line by which spreadsheets declare the delimiter."""
HEAD_LINES = 30
"""Lines that an error about the header examines."""
HEAD_CHARACTERS = 1 << 20
"""Characters of a file that are searched for the end of its first row."""


def csv_rows(
    chunks: Iterator[str], name: str, config: DataConfig, selection: FieldSelection, delimiter: str = ","
) -> Iterator[tuple[object, dict[str, str]]]:
    """Iterate over (place, row) pairs of a text that comes in chunks; a row has only the fields of `selection`.

    Blank lines are skipped, before the header too. `delimiter` is used if neither `data.csv_delimiter` nor a line sep=
    gives another.

    Raises:
        DataError: the header lacks a field or has it twice, or a row is not of the header's width or cannot be read.
    """
    dialect = Dialect(delimiter, config.csv_quote, config.csv_escape)
    lines, line, declared = open_lines(chunks, name, dialect, config.csv_header)
    chosen = declared if config.csv_delimiter is None else config.csv_delimiter
    dialect = dialect if chosen is None else dialect._replace(delimiter=chosen)
    kept: list[str] = []
    columns: list[tuple[str, int]] = []
    number, width = 0, -1
    try:
        for values in dialect.records(recorded(lines, kept)):
            if width < 0 and values:
                width = len(values)
                head = Record(0, kept, line, name)
                if config.csv_header:
                    columns = header_columns(values, head, lines, selection, dialect)
                    line += len(kept)
                    kept.clear()
                    continue
                columns = numbered_columns(values, head, selection)
            if len(values) == width:
                number += 1
                row = {field: values[column] for field, column in columns}
                for value in row.values():
                    if value.startswith(" ") and quotes_after_space(kept, dialect, values):
                        raise spaced_quote_error(Record(number, kept, line, name), dialect)
                yield RowPlace(number, line, name), row
            elif any(map(str.strip, values)):
                raise row_error(Record(number + 1, kept, line, name), width, values, None, dialect)
            line += len(kept)
            kept.clear()
    except csv.Error as error:
        place = Record(0 if width < 0 else number + 1, kept, line, name)
        raise row_error(place, width, (), error, dialect) from error


def open_lines(
    chunks: Iterator[str], name: str, dialect: Dialect, has_header: bool
) -> tuple[Iterator[str], int, str | None]:
    r"""Return the lines of a file from its first row on, the number of that line, and the delimiter that a line sep=
    declares.

    The end of the first row is that of every row: "\n", "\r\n" or a lone "\r".
    """
    first, end = "", None
    for chunk in chunks:
        first += chunk
        end = first_line_end(first, dialect)
        if len(first) > HEAD_CHARACTERS or (end is not None and end.end() < len(first)):
            break
    rest = itertools.chain([first], chunks)
    lines = split_lines(rest, name, "\r" if end is not None and end[1] == "\r" else "\n")
    for number, line in enumerate(lines, 1):
        if found := SEPARATOR_LINE.fullmatch(line.rstrip("\r\n")):
            return lines, number + 1, found[1]
        if line.strip(None if has_header else "\r\n"):
            return itertools.chain([line], lines), number, None
    return lines, 1, None


def first_line_end(text: str, dialect: Dialect) -> re.Match[str] | None:
    """Return a match whose group 1 is the end of the first row, or None if there is no line end.

    It is the first line end that is not quoted or escaped or, if a quote is not closed, the first of all.
    """
    quote, escape, end = re.escape(dialect.quote), re.escape(dialect.escape), r"(\r\n|\r|\n)"
    escaped = f"{escape}.|" if escape else ""
    quoted = f"{quote}(?:{escaped}[^{quote}{escape}]++)*+{quote}|" if quote else ""
    pattern = rf"(?:{escaped}{quoted}[^{quote}{escape}\r\n]++)*+{end}"  # possessive, so that nothing is tried twice
    return re.match(pattern, text, re.DOTALL) or re.search(end, text)


def recorded(lines: Iterable[str], kept: list[str]) -> Iterator[str]:
    """Iterate over the same lines, and append each to `kept`: a reader of rows takes as many as the next row has."""
    for line in lines:
        kept.append(line)
        yield line


def header_columns(
    header: Sequence[str], record: Record, lines: Iterator[str], selection: FieldSelection, dialect: Dialect
) -> list[tuple[str, int]]:
    """Return the fields of `selection`, with the numbers of their columns from 0.

    Raises:
        DataError: the header has no such field, or two; the message considers the lines that follow in `lines`.
    """
    fields = selection.of(header)
    if not fields:
        head = record._replace(lines=[*record.lines, *itertools.islice(lines, HEAD_LINES)])
        raise header_error(head, header, selection, dialect)
    for field in fields:
        if header.count(field) > 1:
            raise repeated_column_error(record, header, field)
    return [(field, header.index(field)) for field in fields]


def numbered_columns(values: Sequence[str], record: Record, selection: FieldSelection) -> list[tuple[str, int]]:
    """Return the fields of `selection` in a file without a header, whose first row is `values`, with the numbers of
    their columns from 0.

    Raises:
        DataError: there is no such column.
    """
    names = [str(number) for number in range(1, len(values) + 1)] if len(values) > 1 else [selection.text_field]
    fields = selection.of(names)
    if not fields:
        raise unnamed_column_error(record, values, selection)
    return [(field, names.index(field)) for field in fields]
