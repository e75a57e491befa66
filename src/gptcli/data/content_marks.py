"""Marks in the strings of a conversation, by which a rendered text tells what a template wrote from what was in a
message.

A mark is one of five noncharacters of Unicode, which no text has a use for. One is put into what looks like a special
token in a message, so that only the special tokens of the template are found; two enclose what `{% generation %}`
encloses; the fourth escapes these characters where a message holds them nevertheless; the fifth stands for an answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

BREAK, BEGIN, END, ESCAPE = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"
ANSWER = "\ufdd4"
"""The content of a message of the assistant that marks where an answer begins."""
RESERVED = (BREAK, BEGIN, END, ESCAPE, ANSWER)
ESCAPED = {ord(character): f"{ESCAPE}{number}" for number, character in enumerate(RESERVED)}
MARKS = re.compile(f"{ESCAPE}([0-{len(RESERVED) - 1}])|[{''.join(RESERVED)}]")


class ContentMarks:
    """The marks for a set of special tokens."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = sorted(filter(None, names), key=len, reverse=True)
        self.first_characters = {name[0] for name in self.names}
        self.prefixes = {name[:length] for name in self.names for length in range(1, len(name))}
        self.longest = max(map(len, self.prefixes), default=0)
        either = "|".join(map(re.escape, self.names)) or "(?!)"
        self.inner = re.compile(f"(?=(?:{either}))(.)", re.DOTALL)
        self.special = re.compile(f"(?:{either})(?!{BREAK})")

    def marked(self, value: Any) -> Any:
        """Return a value of JSON with marks in all its strings but the names of fields."""
        if isinstance(value, str):
            return self.marked_text(value)
        if isinstance(value, dict):
            return {key: self.marked(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.marked(item) for item in value]
        return value

    def marked_text(self, text: str) -> str:
        """Return a text in which no special token is found, alone or with what a template writes after it."""
        if not text.isascii():
            text = text.translate(ESCAPED)
        if any(first in text for first in self.first_characters):
            text = self.inner.sub(f"\\1{BREAK}", text)
            if any(text[-length:] in self.prefixes for length in range(1, min(self.longest, len(text)) + 1)):
                text += BREAK
        return text

    def parts(self, text: str) -> list[tuple[int, int, bool]]:
        """Return the places (start, stop, is_special) of a rendered text's special tokens and of the texts between
        them.
        """
        found, end = [], 0
        for match in self.special.finditer(text):
            if match.start() > end:
                found.append((end, match.start(), False))
            found.append((match.start(), match.end(), True))
            end = match.end()
        if end < len(text):
            found.append((end, len(text), False))
        return found


def unmarked(text: str) -> str:
    """Return a rendered text without marks."""
    return text if text.isascii() else MARKS.sub(original, text)


def original(match: re.Match[str]) -> str:
    """Return the character that an escape stands for, and nothing for a mark."""
    return RESERVED[int(match[1])] if match[1] else ""


def generated_spans(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Return a rendered text without the marks of `{% generation %}`, and the places that they enclose."""
    if BEGIN not in text:
        return text, []
    pieces: list[str] = []
    spans: list[tuple[int, int]] = []
    length, start, depth = 0, 0, 0
    for piece in re.split(f"([{BEGIN}{END}])", text):
        if piece == BEGIN:
            start, depth = (start if depth else length), depth + 1
        elif piece == END:
            depth -= 1
            if not depth and length > start:
                spans.append((start, length))
        else:
            pieces.append(piece)
            length += len(piece)
    return "".join(pieces), spans
