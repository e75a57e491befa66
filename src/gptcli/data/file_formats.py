"""Formats of files: plain text, or rows of one of several kinds, by the ending or the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, NamedTuple

from gptcli.data.compression import format_of

Format = Literal["text", "jsonl", "json", "csv", "tsv", "parquet", "arrow"]
"""Plain text, or the form of the rows in a file: a JSON object on each line; JSON values of any layout (an array of
objects, objects over several lines); values separated by commas or by tabs; columns."""
AUTO: Final = "auto"
ROW_ENDINGS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".jsonlines": "jsonl",
    ".ndjson": "jsonl",
    ".jl": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
"""The endings of files of rows; every other file holds plain text."""


class SourceFile(NamedTuple):
    """A local file, or a member of an archive, and its format."""

    path: Path
    """The path of the file; for a member of an archive, the archive's path with the member's name below it."""
    name: str
    """The name that the user gave it: `-` for the copy of stdin."""
    format: Format = "text"
    is_optional: bool = False
    """Whether the file is left out if it cannot be read, because the user named a folder and not the file."""


def format_by_ending(path: Path) -> Format:
    """Return the format of a file by its name, whatever its compression."""
    return ROW_ENDINGS.get(format_of(path), "text")


def has_row_ending(path: Path) -> bool:
    """Return whether the name of a file says that it holds rows."""
    return format_of(path) in ROW_ENDINGS
