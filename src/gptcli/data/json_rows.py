"""The rows of JSON files: an object on each line, or objects of any layout, alone or in an array.

Only one row is held at a time. Every error names the file and the place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gptcli.console import shell_word
from gptcli.data.fields import RepeatedKeys, RowPlace, described
from gptcli.errors import DataError
from gptcli.storage import open_regular

MAX_ROW_CHARACTERS = 1 << 30
BLANKS = " \t\r\n"
NOT_BLANK = re.compile(f"[^{BLANKS}]")
LONGEST_PART = 16
"""More characters than any of JSON's words and escapes has: an error nearer to the end of an incomplete text may be
caused by the missing part."""
UNTERMINATED = "Unterminated string"
CORRECT = "correct it, or remove it"
AS_TEXT = "if it is plain text, add --set data.format=text"
ANY_LAYOUT = "for objects over several lines and arrays of objects, add --set data.format=json"


class Line(NamedTuple):
    """Line `number` of a stretch that begins at byte `start` of a file. The lines before it are counted only for an
    error.
    """

    number: int
    path: Path
    name: str
    start: int

    def __str__(self) -> str:
        before, left = 0, self.start
        if left:
            with open_regular(self.path) as file:
                while left and (chunk := file.read(min(left, 1 << 20))):
                    before += chunk.count(b"\n")
                    left -= len(chunk)
        return f"line {before + self.number} of {self.name}"


def as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; it is a RepeatedKeys if a key occurs more than once."""
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names = [name for name, _ in pairs]
    return RepeatedKeys(pairs, [name for name in found if names.count(name) > 1])


raw_decode = json.JSONDecoder(object_pairs_hook=as_object).raw_decode


def split_lines(chunks: Iterable[str], name: str, end: str = "\n") -> Iterator[str]:
    """Iterate over lines with their `end`, one character; no other character ends a line, as JSON lines and csv
    require.
    """
    held, characters = [], 0
    for chunk in chunks:
        first, *lines = chunk.split(end)
        held.append(first)
        characters += len(first)
        if characters > MAX_ROW_CHARACTERS:
            raise DataError(
                f"{name} has a row of more than {MAX_ROW_CHARACTERS:,} characters",
                f"check that it holds rows; {AS_TEXT}",
            )
        if lines:
            last = lines.pop()
            yield "".join(held) + end
            for line in lines:
                yield line + end
            held, characters = [last], len(last)
    if characters:
        yield "".join(held)


def json_lines(
    lines: Iterable[str], name: str, path: Path = Path(), start: int = 0
) -> Iterator[tuple[object, dict[str, Any]]]:
    """Iterate over the objects of a file that has one on each line, with their places; blank lines are skipped.

    `lines` are those from byte `start` of the file `path` on, which is read to name a place that is not counted from
    the beginning of the file.

    Raises:
        DataError: a line is not one JSON object.
    """
    for number, line in enumerate(lines, start=1):
        place = Line(number, path, name, start)
        try:
            row, end = raw_decode(line)
        except (ValueError, RecursionError):
            line = line.strip(BLANKS).removeprefix("\ufeff")  # each of several concatenated files begins with it
            if not line.strip():
                continue
            row, end = decode_line(line, place)
        if not isinstance(row, dict):
            raise not_object_error(place, row)
        if line[end:].strip(BLANKS):
            raise DataError(f"{place} has more than one JSON value", f"write one on each line; {ANY_LAYOUT}")
        yield place, row


def decode_line(line: str, place: object) -> tuple[Any, int]:
    """Return the value at the beginning of a line and where it ends.

    Raises:
        DataError: the line is not JSON; the message says why.
    """
    try:
        return raw_decode(line)
    except json.JSONDecodeError as error:
        if error.pos >= len(line):
            raise DataError(f"{place} ends within a JSON value: {decoder_message(error, line)}", ANY_LAYOUT) from error
        remedy = CORRECT if line.startswith(("{", "[")) else AS_TEXT
        raise DataError(f"{place} is not JSON: {decoder_message(error, line)}", remedy) from error
    except (ValueError, RecursionError) as error:
        raise undecodable_error(place, error) from error


def may_go_on(error: json.JSONDecodeError, text: str) -> bool:
    """Return whether a decoder may have failed because the text ends, and not because of its content."""
    return error.msg.startswith(UNTERMINATED) or error.pos + LONGEST_PART >= len(text)


def undecodable_error(place: object, error: Exception) -> DataError:
    """Return the error for JSON that exceeds the limits of Python's decoder."""
    what = "is nested too deeply" if isinstance(error, RecursionError) else f"cannot be decoded: {error}"
    return DataError(f"{place} {what}", CORRECT)


def decoder_message(error: json.JSONDecodeError, text: str) -> str:
    """Return the message of a JSON decoder, with the characters that it refers to."""
    place = f" at {text[error.pos : error.pos + LONGEST_PART]!r}" if error.pos < len(text) else " at the end"
    return error.msg.removesuffix(" at").removesuffix(" starting") + place


def not_object_error(place: Line | RowPlace, value: Any) -> DataError:
    """Return the error for a row that is another value."""
    if isinstance(value, str):
        return DataError(
            f"{place} is a text, not a JSON object with fields",
            f"convert an array of texts to objects: jq -c '.[] | {{text: .}}' {shell_word(place.name)} > rows.jsonl",
        )
    what = "null" if value is None else described(value)
    return DataError(f"{place} is {what}, not a JSON object", 'write each row as an object, such as {"text": "..."}')


def json_values(chunks: Iterator[str], name: str) -> Iterator[tuple[object, dict[str, Any]]]:
    """Iterate over the objects of a file in any layout, with their places: one after another, or in arrays.

    Raises:
        DataError: the file is not JSON, or holds values that are not objects.
    """
    text = JsonText(chunks, name)
    while first := text.next_character():
        if first != "[":
            yield text.next_object()
            continue
        text.position += 1
        following = text.next_character()
        while following != "]":
            yield text.next_object()
            following = text.next_character()
            if following == ",":
                text.position += 1
                text.next_character()
            elif following != "]":
                raise text.error("a comma is missing in an array" if following else "it ends within an array")
        text.position += 1


class JsonText:
    """JSON that comes in chunks, of which only the value at `position` is held."""

    def __init__(self, chunks: Iterator[str], name: str) -> None:
        self.chunks, self.name = chunks, name
        self.text, self.position = "", 0
        self.objects = 0
        self.lines, self.counted = 1, 0
        """The number of the line that holds the character at `counted`."""

    def next_character(self) -> str:
        """Return the next character that is not blank, and move `position` to it; return "" at the end."""
        while (found := NOT_BLANK.search(self.text, self.position)) is None:
            self.position = len(self.text)
            if not self.grow():
                return ""
        self.position = found.start()
        return found[0]

    def next_object(self) -> tuple[object, dict[str, Any]]:
        """Return the object at `position` and its place."""
        place = self.place()
        while True:
            try:
                value, end = raw_decode(self.text, self.position)
                break
            except json.JSONDecodeError as error:
                what = decoder_message(error, self.text)
                if not may_go_on(error, self.text) or not self.grow():
                    raise self.error(what) from error
            except (ValueError, RecursionError) as error:
                raise undecodable_error(place, error) from error
        if not isinstance(value, dict):
            raise not_object_error(place, value)
        self.position = end
        return place, value

    def place(self) -> RowPlace:
        """Count an object, and return its place."""
        self.objects += 1
        return RowPlace(self.objects, self.line_at(self.position), self.name)

    def line_at(self, position: int) -> int:
        """Return the number of the line at a position."""
        self.lines += self.text.count("\n", self.counted, position)
        self.counted = position
        return self.lines

    def grow(self) -> bool:
        """Read at least as many characters as are held, so that a long value is not decoded too often; return False at
        the end of the file.
        """
        self.line_at(self.position)
        parts, held = [self.text[self.position :]], len(self.text) - self.position
        wanted = 2 * held
        self.position = self.counted = 0
        is_longer = False
        while (held < wanted or not is_longer) and (chunk := next(self.chunks, None)) is not None:
            parts.append(chunk)
            held += len(chunk)
            is_longer = True
        self.text = "".join(parts)
        if held > MAX_ROW_CHARACTERS:
            raise DataError(
                f"row {self.objects} of {self.name} has more than {MAX_ROW_CHARACTERS:,} characters",
                "write one JSON object for each text",
            )
        return is_longer

    def error(self, what: str) -> DataError:
        """Return the error for text that is not JSON."""
        return DataError(
            f"{self.name} is not JSON: {what}, in row {self.objects} (line {self.line_at(self.position)})",
            f"{CORRECT}; {AS_TEXT}",
        )
