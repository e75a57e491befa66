r"""Separators of the documents of a text file: those that a user declares, and those that a text probably has.

A shell passes '\n' as a backslash and an n, so the escapes \n, \t, \r and \\ have their meaning in Python. A line end
in a separator also matches "\r\n", the line end of Windows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from gptcli.data.config import DataConfig

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}

QUOTED = "\"'`"
MIN_TOKENS, MIN_LINES = 4, 8
"""The fewest occurrences of a special token, and of a line between texts, that make it a likely separator."""
TOKENS = ("<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|endofdocument|>", "<eos>", "<EOS>", "[EOS]", "<|end|>")
SENTENCE_MARKS = ("</s>\n<s>", "</s>\r\n<s>", "</s> <s>", "</s><s>", "</s>", "<s>")
LINES = ("---", "***", "* * *", "%", "%%", "===", "-----", "*****", "=====", "+++")


class Separator:
    """The separator of documents that a user typed, with its escapes resolved."""

    def __init__(self, typed: str) -> None:
        self.text = re.sub(r"\\([ntr\\])", lambda escape: ESCAPES[escape[1]], typed).replace("\r\n", "\n")
        pattern = re.escape(self.text).replace("\\\n", "\r?\n")
        self.pattern, self.bytes_pattern = re.compile(pattern), re.compile(pattern.encode())
        self.longest = len(self.text) + self.text.count("\n")
        """The number of characters of its longest form."""
        self.longest_bytes = len(self.text.encode()) + self.text.count("\n")

    def split(self, text: str) -> list[str]:
        """Return the texts between its occurrences, in order."""
        return self.pattern.split(text) if "\r" in text and "\n" in self.text else text.split(self.text)


def separator_of(config: DataConfig) -> Separator | None:
    """Return the separator that a configuration names; None if it names none."""
    return Separator(config.document_separator) if config.document_separator is not None else None


def separate(chunks: Iterable[str], separator: Separator | None) -> Iterator[tuple[str, bool]]:
    """Yield (text, whether a document ends after it) of text that comes in chunks, even if they divide a separator."""
    held = ""
    for chunk in chunks:
        if separator is None:
            yield chunk, False
            continue
        *documents, held = separator.split(held + chunk)
        for document in documents:
            yield document, True
        certain = max(0, len(held) - separator.longest + 1)
        yield held[:certain], False
        held = held[certain:]
    yield held, True


def section_ends(content: ReadableBuffer, separator: Separator, section_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of about one occurrence every `section_bytes` at which cutting from left to right cuts.

    If occurrences overlap, the text is cut at the first of them; so it is certainly cut at one that no other occurrence
    overlaps from the left.

    Args:
        content: The bytes of a file in UTF-8, or a map of them.
    """
    pattern, end = separator.bytes_pattern, 0
    while found := pattern.search(content, end + section_bytes):
        while found and reaches_into(content, separator, found.start(), end):
            found = pattern.search(content, found.start() + 1)
        if not found:
            return
        end = found.end()
        yield found.span()


def reaches_into(content: ReadableBuffer, separator: Separator, start: int, after: int) -> bool:
    """Return whether an occurrence that begins before `start`, but not before `after`, ends beyond `start`."""
    first = max(after, start - separator.longest_bytes + 1)
    matches = (separator.bytes_pattern.match(content, place) for place in range(first, start))
    return any(match is not None and match.end() > start for match in matches)


class Undeclared(NamedTuple):
    """A probable separator of documents, as it is typed for `data.document_separator`."""

    typed: str
    occurrences: int


def undeclared(text: str, is_prose: bool) -> Undeclared | None:
    """Return the probable separator of documents in `text`; None if there is none.

    Args:
        is_prose: The text is in no markup or programming language, in which a line such as "---" has a meaning.
    """
    seen = [Undeclared(token, count_unquoted(text, token)) for token in TOKENS]
    found = [mark for mark in seen if mark.occurrences >= MIN_TOKENS]
    if is_prose and "s>" in text:
        marks = [Undeclared(typed(mark), text.count(mark)) for mark in SENTENCE_MARKS]
        pairs, (ends, begins) = marks[:-2], marks[-2:]
        found += [mark for mark in pairs if mark.occurrences >= max(MIN_LINES, 0.8 * begins.occurrences)]
        for mark, other in ((ends, begins), (begins, ends)):
            found += [mark] if mark.occurrences >= MIN_LINES and not other.occurrences else []
    if is_prose and not found:
        lines = [
            Undeclared(typed(f"\n{line}\n"), len(re.findall(f"\n{re.escape(line)}\r?(?=\n)", text))) for line in LINES
        ]
        found = [mark for mark in lines if mark.occurrences >= MIN_LINES]
    return max(found, key=lambda mark: mark.occurrences, default=None)


def count_unquoted(text: str, token: str) -> int:
    """Return the number of occurrences of `token` that are not quoted, as they are in programs and prose about it."""
    if token not in text:
        return 0
    return len(re.findall(f"(?<![{QUOTED}]){re.escape(token)}(?![{QUOTED}])", text))


def typed(separator: str) -> str:
    r"""Return a separator as it is typed: line ends as \n, which stands for "\r\n" too."""
    return separator.replace("\\", "\\\\").replace("\r\n", "\n").replace("\n", "\\n").replace("\t", "\\t")
