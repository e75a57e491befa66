"""Dialects of CSV: the characters that separate, quote and escape values."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

MAX_VALUE_CHARACTERS = 1 << 26
"""A longer value is one whose quote is not closed: Python's reader takes four bytes for each character of it."""
NO_DELIMITER = "\udc80"
"""Half a surrogate pair, which no decoded text holds: the delimiter for Python's reader, which needs one, in a dialect
without delimiter."""


class Dialect(NamedTuple):
    """The characters of a dialect, as in `data.csv_delimiter`, `data.csv_quote` and `data.csv_escape`."""

    delimiter: str = ","
    quote: str = '"'
    escape: str = ""

    @property
    def separator(self) -> str:
        """The delimiter itself, without the space that may follow it."""
        return self.delimiter[:1]

    @property
    def skips_spaces(self) -> bool:
        """Whether spaces after a delimiter are not part of the value."""
        return self.delimiter[1:] == " "

    def records(self, lines: Iterable[str]) -> Iterator[list[str]]:
        """Iterate over the values of each row, none for a blank line; `lines` keep their line ends.

        Raises:
            csv.Error: a quote is not closed, or a value continues after its closing quote; or there is a line end
                within a line.
        """
        csv.field_size_limit(MAX_VALUE_CHARACTERS)
        return csv.reader(
            self.with_kept_escapes(lines) if self.escape else lines,
            delimiter=self.separator or NO_DELIMITER,
            quotechar=self.quote or None,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            escapechar=self.escape or None,
            skipinitialspace=self.skips_spaces,
            strict=True,
        )

    def with_kept_escapes(self, lines: Iterable[str]) -> Iterator[str]:
        r"""Double each escape character before a character that needs none.

        Python's reader drops every escape character, also that of "C:\new", where programs that write \" mean both
        characters.
        """
        known = re.escape(self.quote + self.separator + self.escape) + r"\r\n"
        pattern = re.compile(f"{re.escape(self.escape)}([{known}])?")
        twice = 2 * self.escape
        for line in lines:
            yield pattern.sub(lambda found: found[0] if found[1] else twice, line)


def first_record(lines: Iterable[str], dialect: Dialect) -> list[str] | None:
    """Return the values of the first row that is not blank; None if there is none, or it is not of this dialect."""
    try:
        return next((values for values in dialect.records(lines) if values), None)
    except csv.Error:
        return None
