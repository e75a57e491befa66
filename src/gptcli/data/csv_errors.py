"""Errors about a row or a header of CSV, each with its remedy.

They are made when a row does not fit: it is then tried in other dialects.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import re
import shlex
from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

from gptcli.console import quantity
from gptcli.data.csv_dialect import MAX_VALUE_CHARACTERS, Dialect, first_record
from gptcli.data.fields import FieldSelection
from gptcli.data.json_rows import AS_TEXT, raw_decode
from gptcli.errors import DataError

DELIMITERS = (",", ";", "\t", "|")
DELIMITER_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
SHOWN_CHARACTERS, SHOWN_VALUES = 30, 6
LONGEST_NAME = 40
"""Characters of a column's name; a longer value is a text."""


class Record(NamedTuple):
    """A row as a file has it: its number (0 for the header), its lines, and the number of the first of them."""

    number: int
    lines: Sequence[str]
    line: int
    name: str

    def __str__(self) -> str:
        last = self.line + len(self.lines) - 1
        where = f"line {self.line}" if last <= self.line else f"lines {self.line} to {last}"
        return f"{f'row {self.number}' if self.number else 'the header'} of {self.name} ({where})"


def row_error(
    record: Record, width: int, values: Sequence[str], error: csv.Error | None, dialect: Dialect
) -> DataError:
    """Return the error for a row without the `width` values of the header: it has others, or cannot be read
    (`error`).
    """
    raw = "".join(record.lines)
    escaped = dialect._replace(escape="\\")
    if dialect.quote and not dialect.escape and f"\\{dialect.quote}" in raw and fits(record, escaped, width):
        return DataError(
            f"{record} has \\{dialect.quote} within a quoted value",
            r"to read it as a quote, add --set data.csv_escape='\'",
        )
    spaced = dialect._replace(delimiter=f"{dialect.separator} ")
    if has_spaced_quote(raw, dialect) and fits(record, spaced, width):
        return spaced_quote_error(record, dialect)
    if error is not None:
        return unreadable_row_error(record, raw, error, dialect, width)
    if dialect.quote and f"{dialect.separator}'" in raw and fits(record, dialect._replace(quote="'"), width):
        return single_quoted_error(record)
    counted = f"{record} has {quantity(len(values), 'value')} ({shown(values)}), and the first row has {width}"
    if len(values) < width:
        return DataError(counted, "write every value, empty ones too, or remove the row")
    delimiter = dialect.separator
    if width == 1:
        return DataError(
            counted,
            f"put texts with {delimiter!r} in double quotes, or where each line is one text, add "
            "--set data.csv_delimiter=''",
        )
    return DataError(counted, f"put values that hold {delimiter!r} in double quotes")


def unreadable_row_error(record: Record, raw: str, error: csv.Error, dialect: Dialect, width: int) -> DataError:
    """Return the error for a row that Python's reader refuses."""
    begins = open_quote(raw, dialect) if dialect.quote else 0
    opened = record.line + sum(end <= begins for end in itertools.accumulate(map(len, record.lines)))
    unquoted = ""
    if fits(record._replace(lines=record.lines[:1]), dialect._replace(quote=""), width):
        unquoted = ", or if quotes are characters like any other in this file, add --set data.csv_quote=''"
    if "end of data" in str(error):
        return DataError(f"{record} opens a quote on line {opened} that is never closed", f"close it{unquoted}")
    if "field limit" in str(error):
        return DataError(
            f"{record} has a value of more than {MAX_VALUE_CHARACTERS:,} characters, which begins on line {opened}",
            f"close its quote{unquoted}" if dialect.quote and dialect.quote in raw else AS_TEXT,
        )
    if "expected after" in str(error):
        where = f", which was opened on line {opened}," if len(record.lines) > 1 else ""
        wanted = repr(dialect.separator) if dialect.separator else "a line end"
        return DataError(
            f"{record} continues after the quote that closes a value{where} without {wanted}",
            f"close each quoted value, and write quotes within it twice{unquoted}",
        )
    if "new-line" in str(error):
        suffix = PurePath(record.name).suffix
        return DataError(
            f"{record} has a carriage return (\\r) outside quotes that ends no line",
            rf"put a space there: sed 's/\r\(.\)/ \1/g' {shlex.quote(record.name)} > spaced{suffix}",
        )
    return DataError(f"{record} is not CSV: {error}", AS_TEXT)


def open_quote(raw: str, dialect: Dialect) -> int:
    """Return the index of the quote of a value that is not closed, or continues after its closing quote; 0 if there is
    none.
    """
    ends = re.compile(f"[{re.escape(dialect.separator)}\r\n]")
    position = 0
    while position < len(raw):
        stop = position
        if raw[position] == dialect.quote:
            stop = raw.find(dialect.quote, position + 1)
            while stop >= 0 and raw[stop + 1 : stop + 2] == dialect.quote:
                stop = raw.find(dialect.quote, stop + 2)
            if stop < 0 or not (stop + 1 == len(raw) or ends.match(raw, stop + 1)):
                return position
        found = ends.search(raw, stop)
        if found is None:
            break
        position = found.end()
    return 0


def fits(record: Record, dialect: Dialect, width: int) -> bool:
    """Return whether the lines of a row begin with a row of `width` values in another dialect."""
    return len(first_record(record.lines, dialect) or ()) == width


def has_spaced_quote(raw: str, dialect: Dialect) -> bool:
    """Return whether a quote after a delimiter and a space may open a value."""
    may_be_spaced = dialect.quote and dialect.separator and not dialect.skips_spaces
    return bool(may_be_spaced) and f"{dialect.separator} {dialect.quote}" in raw


def spaced_quote_error(record: Record, dialect: Dialect) -> DataError:
    """Return the error for a file that quotes a value after a space."""
    delimiter = dialect.separator
    return DataError(
        f"{record} has a space between {delimiter!r} and a quote",
        f"if spaces after {delimiter!r} are not part of the values, add --set 'data.csv_delimiter=\"{delimiter} \"'",
    )


def single_quoted_error(record: Record) -> DataError:
    """Return the error for a file that has ' around its values."""
    return DataError(f"{record} has values in single quotes", 'add --set "data.csv_quote=\'"')


def quotes_after_space(lines: Sequence[str], dialect: Dialect, values: Sequence[str]) -> bool:
    """Return whether a value of a row that begins with a space and a quote would be a quoted one without the space."""
    if not has_spaced_quote("".join(lines), dialect):
        return False
    other = first_record(lines, dialect._replace(delimiter=f"{dialect.separator} "))
    return other is not None and any(
        one not in (value, value.lstrip(" ")) for one, value in zip(other, values, strict=False)
    )


def unnamed_column_error(record: Record, values: Sequence[str], selection: FieldSelection) -> DataError:
    """Return the error for a file without a header of which no column was chosen."""
    column = max(range(len(values)), key=lambda number: len(values[number])) + 1
    return DataError(
        f"{record.name} has {len(values)} columns without names ({shown(values)})",
        f"name what is to be read by its number: {selection.option(str(column))}",
    )


def repeated_column_error(record: Record, names: Sequence[str], field: str) -> DataError:
    """Return the error for a header that gives two columns the name of the one that is read."""
    numbers = [str(number) for number, name in enumerate(names, 1) if name == field]
    return DataError(
        f"{record} names columns {' and '.join(numbers)} both {field!r}", f"rename one of them on line {record.line}"
    )


def header_error(record: Record, names: Sequence[str], selection: FieldSelection, dialect: Dialect) -> DataError:
    """Return the error for a first row without the columns of `selection`; `record` has the first lines, not only the
    header.
    """
    spaced = dialect._replace(delimiter=f"{dialect.separator} ")
    may_be_spaced = dialect.separator and not dialect.skips_spaces
    if may_be_spaced and (found := selection.of(first_record(record.lines, spaced) or ())):
        return DataError(
            f"{record.name} has a space before {found[-1]!r} in its header",
            f"remove it, or add --set 'data.csv_delimiter=\"{spaced.delimiter}\"'",
        )
    if is_json_object(record.lines[0]):
        return DataError(f"{record.name} has JSON on its first line, not CSV", "add --set data.format=jsonl")
    single = dialect._replace(quote="'")
    if dialect.quote and selection.of(first_record(record.lines, single) or ()):
        return single_quoted_error(record)
    rows = complete_rows(record.lines, dialect)
    for delimiter in DELIMITERS:
        if delimiter in dialect:
            continue
        other = complete_rows(record.lines, dialect._replace(delimiter=delimiter))
        if not other or len(other[0]) == 1:
            continue
        is_named = bool(selection.of(other[0]))
        if is_named or (is_regular(other) and not (is_regular(rows) and len(rows[0]) > 1) and looks_named(other[0])):
            field = "" if is_named else f" {selection.option(shlex.quote(longest_column(other)))}"
            return DataError(
                f"{record.name} separates its columns ({shown(other[0])}) by {DELIMITER_NAMES[delimiter]}",
                f"add --set data.csv_delimiter={typed(delimiter)}{field}",
            )
    if not is_regular(rows):
        counts = ", ".join(str(len(row)) for row in rows[:SHOWN_VALUES])
        return DataError(
            f"{record.name} has no {selection.lacking('column')} and is probably not CSV: its first rows have {counts} "
            "values",
            AS_TEXT,
        )
    if not looks_named(names):
        column = "" if len(names) == 1 else f" {selection.option(longest_column(rows, numbered=True))}"
        return DataError(
            f"{record.name} has no {selection.lacking('column')}, and its first row is probably not a header: "
            f"{shown(names)}",
            f"if it has none, add --set data.csv_header=false{column}; {AS_TEXT}",
        )
    return selection.missing_error(record.name, names, shlex.quote(longest_column(rows)))


def is_json_object(line: str) -> bool:
    """Return whether a line begins with a JSON object."""
    try:
        return isinstance(raw_decode(line.strip())[0], dict)
    except (ValueError, RecursionError):
        return False


def complete_rows(lines: Sequence[str], dialect: Dialect) -> list[list[str]]:
    """Return the rows of the first lines of a file that can be read; the last one may be cut off there."""
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):
        rows.extend(values for values in dialect.records(lines) if values)
    return rows


def is_regular(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether all rows have the same number of values."""
    return len({len(row) for row in rows}) <= 1


def looks_named(names: Sequence[str]) -> bool:
    """Return whether a row may name columns: short words that differ, no numbers and no sentences."""
    return len(set(names)) == len(names) and all(
        0 < len(name) <= LONGEST_NAME
        and len(name.split()) <= 3
        and not re.fullmatch(r"[-+\d.,:/ ]+", name)
        and name.strip()[-1:] not in tuple(".!?…。")
        for name in names
    )


def longest_column(rows: Sequence[Sequence[str]], numbered: bool = False) -> str:
    """Return the name of the column with the longest values, which is the likeliest to hold texts."""
    totals = [sum(len(row[column]) for row in rows[1:] if column < len(row)) for column in range(len(rows[0]))]
    column = totals.index(max(totals))
    return str(column + 1) if numbered else rows[0][column]


def typed(delimiter: str) -> str:
    """Return a delimiter as it is typed in a shell."""
    return r"'\t'" if delimiter == "\t" else f"'{delimiter}'"


def shown(values: Sequence[str]) -> str:
    """Return values for a message, with long values and a long list shortened."""
    short = [v if len(v) <= SHOWN_CHARACTERS else f"{v[:SHOWN_CHARACTERS]}..." for v in values[:SHOWN_VALUES]]
    return ", ".join(map(repr, short)) + (", ..." if len(values) > SHOWN_VALUES else "")
