"""Recognition of a file's format where its ending does not decide it: the layout of JSON, and the content of a pipe.

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
from gptcli.data.fields import DEFAULT_FIELD, FieldSelection
from gptcli.data.file_formats import AUTO, Format, format_by_ending
from gptcli.data.json_rows import BLANKS, raw_decode
from gptcli.errors import GptcliError

HEAD_CHARACTERS = 1 << 16
FORMAT_NAMES: dict[Format, str] = {"jsonl": "JSON lines", "json": "JSON", "csv": "CSV", "tsv": "TSV"}


def file_format(path: Path, config: DataConfig) -> Format:
    """Return the format of a file with an ending: as `data.format` says, else by its ending.

    For JSON, the beginning of the file shows whether each line holds an object, and whether a .jl file is JSON lines
    or a program in Julia.
    """
    if config.format != AUTO:
        return config.format
    found = format_by_ending(path)
    if found not in ("jsonl", "json"):
        return found
    head, is_whole = read_prefix(path, config)
    return json_layout(head, is_whole) or ("text" if is_julia(path) else "jsonl")


def is_julia(path: Path) -> bool:
    """Return whether the ending is also one of Julia."""
    return ".jl" in [suffix.lower() for suffix in path.suffixes[-2:]]


def read_prefix(path: Path, config: DataConfig) -> tuple[str, bool]:
    """Return the first characters of a file, and whether they are all of it.

    A file that cannot be read gives none; its reader will report the error.
    """
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
    """Return the layout of JSON that begins with `head`; None if it begins with neither an object nor an array."""
    head = head.lstrip(BLANKS)
    if head.startswith("["):
        return "json"
    if not head.startswith("{"):
        return None
    line, end, _ = head.partition("\n")
    if not end and not is_whole:
        return "jsonl"  # the first object is longer than `head`
    try:
        _, stop = raw_decode(line)
    except json.JSONDecodeError as error:
        # If the line ends within the object, the object takes several lines; the reader reports other errors.
        return "json" if error.pos >= len(line.rstrip(BLANKS)) else "jsonl"
    except (ValueError, RecursionError):
        return "jsonl"
    return "json" if line[stop:].strip(BLANKS) else "jsonl"


def stream_format(path: Path, name: str, config: DataConfig) -> Format:
    """Return the format of a stream, whose copy is `path`: as `data.format` says, else as recognised, with a
    message.
    """
    if config.format != AUTO:
        return config.format
    found = looks_like(path, config)
    title = "standard input" if name == "-" else name
    if found != "text":
        say(
            f"{title} is read as {FORMAT_NAMES[found]}, since its first row has a text; to read it as plain text, add "
            "--set data.format=text"
        )
    elif config.text_field != DEFAULT_FIELD or read_prefix(path, config)[0].split("\n")[0].strip() == config.text_field:
        say(
            f"{title} is read as plain text, since no row with the field {config.text_field!r} is at its beginning; if "
            "it is JSON or CSV, add --set data.format=jsonl or --set data.format=csv"
        )
    return found


def hint_of_rows(path: Path, config: DataConfig) -> None:
    """Print a message if a file that is read as plain text, by its ending, looks like rows."""
    found = looks_like(path, config) if config.format == AUTO else "text"
    if found != "text":
        say(
            f"warning: {path} is read as plain text, and looks like {FORMAT_NAMES[found]}; to read the texts in its "
            f"rows, add --set data.format={found}"
        )


def looks_like(path: Path, config: DataConfig) -> Format:
    """Return the format of a file of unknown content.

    It is one of rows if the file begins with a row that has the field `data.text_field` or a conversation, or what
    `data.kind` needs, else plain text.
    """
    selection = FieldSelection.in_rows_of(config)
    head, is_whole = read_prefix(path, config)
    layout = json_layout(head, is_whole)
    if layout is not None:
        return layout if has_text(head, selection) else "text"
    lines = head.lstrip(BLANKS).splitlines(keepends=True)[:1]
    for delimiter in DELIMITERS:
        names = first_record(lines, Dialect(delimiter)) or []
        if len(names) > 1 and (config.text_field in names or (selection.content != "text" and selection.of(names))):
            return "tsv" if delimiter == "\t" else "csv"
    return "text"


def has_text(head: str, selection: FieldSelection) -> bool:
    """Return whether the first object of JSON that begins with `head` has a text, or may have one after `head`."""
    try:
        row, _ = raw_decode(head.lstrip(f"{BLANKS}["))
    except (ValueError, RecursionError):
        return f'"{selection.text_field}"' in head
    return isinstance(row, dict) and bool(selection.of(row))
