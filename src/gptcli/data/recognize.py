"""The format of a file where its ending does not settle it: the layout of JSON, and what arrives through a pipe.

Only the beginning of a file is read here.
"""

from __future__ import annotations

import json
from pathlib import Path

from gptcli.console import say
from gptcli.data.config import DataConfig
from gptcli.data.csv_dialect import Dialect, first_record
from gptcli.data.csv_errors import DELIMITERS
from gptcli.data.decoding import Decoding, read_text
from gptcli.data.fields import DEFAULT_FIELD, text_fields
from gptcli.data.file_formats import AUTO, Format, format_by_ending
from gptcli.data.json_rows import BLANKS, raw_decode
from gptcli.errors import GptcliError

HEAD_CHARACTERS = 1 << 16
FORMAT_NAMES: dict[Format, str] = {"jsonl": "JSON lines", "json": "JSON", "csv": "CSV", "tsv": "TSV"}


def file_format(path: Path, config: DataConfig) -> Format:
    """The format of a file that has an ending: as `data.format` says, else by its ending.

    For JSON, the beginning of the file shows whether an object stands on each line, and whether a file .jl is JSON
    lines or a program in Julia.
    """
    if config.format != AUTO:
        return config.format
    found = format_by_ending(path)
    if found not in ("jsonl", "json"):
        return found
    head, is_whole = beginning(path, config)
    return json_layout(head, is_whole) or ("text" if is_julia(path) else "jsonl")


def is_julia(path: Path) -> bool:
    """Whether the ending is Julia's too."""
    return ".jl" in [suffix.lower() for suffix in path.suffixes[-2:]]


def beginning(path: Path, config: DataConfig) -> tuple[str, bool]:
    """The first characters of a file, and whether they are all of it; none of one that cannot be read, of which
    the reader will say why."""
    head = ""
    try:
        for chunk in read_text(path, str(path), Decoding("replace", config.encoding)):
            head += chunk
            if len(head) > HEAD_CHARACTERS:
                return head, False
    except GptcliError:
        return "", True
    return head, True


def json_layout(head: str, is_whole: bool) -> Format | None:
    """Whether JSON that begins with `head` has an object on each line; None where it begins with neither an object nor
    an array."""
    head = head.lstrip(BLANKS)
    if head.startswith("["):
        return "json"
    if not head.startswith("{"):
        return None
    line, end, _ = head.partition("\n")
    if not end and not is_whole:
        return "jsonl"  # the first object is longer than what is looked at
    try:
        _, stop = raw_decode(line)
    except json.JSONDecodeError as error:
        # If the line ends within the object, that is written over several lines; other faults are the reader's to name.
        return "json" if error.pos >= len(line.rstrip(BLANKS)) else "jsonl"
    except (ValueError, RecursionError):
        return "jsonl"
    return "json" if line[stop:].strip(BLANKS) else "jsonl"


def stream_format(path: Path, name: str, config: DataConfig) -> Format:
    """The format of a stream, of which `path` is a copy: as `data.format` says, else as `looks_like` recognises it,
    which is reported."""
    if config.format != AUTO:
        return config.format
    found = looks_like(path, config)
    title = "standard input" if name == "-" else name
    if found != "text":
        say(
            f"{title} is read as {FORMAT_NAMES[found]}, since its first row has a text; to read it as plain text, add "
            "--set data.format=text"
        )
    elif config.text_field != DEFAULT_FIELD or beginning(path, config)[0].split("\n")[0].strip() == config.text_field:
        say(
            f"{title} is read as plain text, since no row with the field {config.text_field!r} is at its beginning; if "
            "it is JSON or CSV, add --set data.format=jsonl or --set data.format=csv"
        )
    return found


def hint_of_rows(path: Path, config: DataConfig) -> None:
    """Say it if a file that is read as plain text, by its ending, looks like rows."""
    found = looks_like(path, config) if config.format == AUTO else "text"
    if found != "text":
        say(
            f"warning: {path} is read as plain text, and looks like {FORMAT_NAMES[found]}; to read the texts in its "
            f"rows, add --set data.format={found}"
        )


def looks_like(path: Path, config: DataConfig) -> Format:
    """The format of a file of unknown content: rows where it begins with a row that has the field `data.text_field` or
    a conversation, else plain text."""
    head, is_whole = beginning(path, config)
    layout = json_layout(head, is_whole)
    if layout is not None:
        return layout if has_text(head, config.text_field) else "text"
    lines = head.lstrip(BLANKS).splitlines(keepends=True)[:1]
    for delimiter in DELIMITERS:
        names = first_record(lines, Dialect(delimiter)) or []
        if len(names) > 1 and config.text_field in names:
            return "tsv" if delimiter == "\t" else "csv"
    return "text"


def has_text(head: str, text_field: str) -> bool:
    """Whether the first object of JSON that begins with `head` has a text, or may have one after what is looked at."""
    try:
        row, _ = raw_decode(head.lstrip(f"{BLANKS}["))
    except (ValueError, RecursionError):
        return f'"{text_field}"' in head
    return isinstance(row, dict) and bool(text_fields(text_field, row))
