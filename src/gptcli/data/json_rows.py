"""The rows of JSON lines, and the lines of a text that arrives in pieces.

Knows nothing of what a row holds; every error names the file and the line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gptcli.errors import DataError

MAX_ROW_CHARACTERS = 1 << 30


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
