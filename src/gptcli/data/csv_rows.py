"""The rows of CSV files. Knows nothing of what a row holds; every error names the file and the row."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator

from gptcli.data.json_rows import MAX_ROW_CHARACTERS
from gptcli.errors import DataError


def csv_rows(lines: Iterable[str], name: str, delimiter: str = ",") -> Iterator[tuple[str, dict[str, str]]]:
    """Rows by the names in the first line; rows are counted from 1 after it."""
    csv.field_size_limit(MAX_ROW_CHARACTERS)
    reader = csv.reader(lines, delimiter=delimiter)
    number = 0
    try:
        header = next(reader, [])
        for values in reader:
            if values:
                number += 1
                yield f"row {number} of {name}", dict(zip(header, values, strict=False))
    except csv.Error as error:
        raise DataError(f"row {number + 1} of {name} is not CSV: {error}", "mend the file") from error
