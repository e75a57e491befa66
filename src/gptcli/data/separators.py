r"""Text that separates the documents of a text file: what a user types for it, where it is found, and which one a text
probably has that was not declared.

A shell gives '\n' as a backslash and an n, so the escapes \n, \t, \r and \\ stand for what they mean in Python. A line
end in a separator is found as "\r\n" too, as Windows writes it.
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
        """Characters of its longest form."""
        self.longest_bytes = len(self.text.encode()) + self.text.count("\n")

    def split(self, text: str) -> list[str]:
        """The texts between its occurrences, in order."""
        return self.pattern.split(text) if "\r" in text and "\n" in self.text else text.split(self.text)


def separator_of(config: DataConfig) -> Separator | None:
    """The separator that a configuration names, if any."""
    return Separator(config.document_separator) if config.document_separator is not None else None


def separate(chunks: Iterable[str], separator: Separator | None) -> Iterator[tuple[str, bool]]:
    """(text, whether a document ends after it) for text that arrives in chunks; the separator may lie across two."""
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
    """(start, end) of about one occurrence every `section_bytes`, such as cutting from the left to the right uses.

    Of occurrences that overlap, the first is used; so one that no other reaches into from the left surely is.

    Args:
        content: the bytes of a file in UTF-8, or a map of them.
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
    """Whether an occurrence that begins before `start`, and not before `after`, ends beyond `start`."""
    first = max(after, start - separator.longest_bytes + 1)
    matches = (separator.bytes_pattern.match(content, place) for place in range(first, start))
    return any(match is not None and match.end() > start for match in matches)


class Undeclared(NamedTuple):
    """Something that probably separates documents, as one types it for `data.document_separator`."""

    typed: str
    count: int
    """The number of its occurrences."""


def undeclared(text: str, is_prose: bool) -> Undeclared | None:
    """The probable separator of documents in `text`; None if there is none.

    Args:
        is_prose: the text is in no markup and no program language, in which a line such as "---" has a meaning.
    """
    seen = [Undeclared(token, count_unquoted(text, token)) for token in TOKENS]
    found = [mark for mark in seen if mark.count >= MIN_TOKENS]
    if is_prose and "s>" in text:
        marks = [Undeclared(typed(mark), text.count(mark)) for mark in SENTENCE_MARKS]
        pairs, (ends, begins) = marks[:-2], marks[-2:]
        found += [mark for mark in pairs if mark.count >= max(MIN_LINES, 0.8 * begins.count)]
        found += [
            mark for mark, other in ((ends, begins), (begins, ends)) if mark.count >= MIN_LINES and not other.count
        ]
    if is_prose and not found:
        lines = [
            Undeclared(typed(f"\n{line}\n"), len(re.findall(f"\n{re.escape(line)}\r?(?=\n)", text))) for line in LINES
        ]
        found = [mark for mark in lines if mark.count >= MIN_LINES]
    return max(found, key=lambda mark: mark.count, default=None)


def count_unquoted(text: str, token: str) -> int:
    """The number of occurrences of `token`, except where it is quoted, as in programs and in prose about it."""
    if token not in text:
        return 0
    return len(re.findall(f"(?<![{QUOTED}]){re.escape(token)}(?![{QUOTED}])", text))


def typed(separator: str) -> str:
    r"""A separator as one types it: line ends as \n, and "\r\n" as the "\n" that stands for both."""
    return separator.replace("\\", "\\\\").replace("\r\n", "\n").replace("\n", "\\n").replace("\t", "\\t")
