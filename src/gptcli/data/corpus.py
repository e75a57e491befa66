"""Documents: a row of a row file, a text file, or what a separator cuts a text file into.

A document may be larger than memory, so it travels as pieces, cut where no tokenizer joins characters across the cut:
encoding the pieces gives the same tokens as encoding the whole. Knows nothing of splits or tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gptcli.data.cache import default_cache_dir
from gptcli.data.config import DataConfig
from gptcli.data.file_formats import SourceFile
from gptcli.data.formats import read_text
from gptcli.data.rows import read_rows
from gptcli.data.sources import find_files
from gptcli.data.token_files import is_token_file
from gptcli.errors import DataError

PIECE_CHARACTERS = 1 << 20
"""Longest piece; nearly every document is one."""


class Document(NamedTuple):
    """A whole document and the name of the file it came from."""

    text: str
    source: str


class Piece(NamedTuple):
    """A stretch of a document; the piece after the last one begins the next document."""

    text: str
    is_last: bool


def open_corpus(sources: Sequence[str], config: DataConfig, cache_dir: Path | None = None) -> Iterator[Document]:
    """The documents of `sources` in order, each whole in memory, without those that hold only white space.

    Raises:
        DataError: a source is missing (at once) or cannot be read (when it is its turn).
    """
    files = find_files(sources, config, cache_dir or default_cache_dir())
    return (document for file in files for document in read_documents(file, config))


def read_documents(file: SourceFile, config: DataConfig) -> Iterator[Document]:
    parts: list[str] = []
    for text, is_last in read_pieces(file, config):
        parts.append(text)
        if is_last:
            whole = "".join(parts)
            parts.clear()
            if whole and not whole.isspace():
                yield Document(whole, file.name)


def read_pieces(file: SourceFile, config: DataConfig, start: int = 0, stop: int | None = None) -> Iterator[Piece]:
    """Every document of one file, also empty ones, in pieces of at most PIECE_CHARACTERS; with `stop` those of the
    section start..stop (sections.py)."""
    path, name, kind = file
    if is_token_file(path.name):
        raise DataError(
            f"{name} holds tokens by its ending, and a text is needed here",
            "train on it by steps, without --time, or name the text",
        )
    if kind != "text":
        return cut_pieces((row, True) for row in read_rows(file, config, start, stop))
    chunks = read_text(path, name, config.encoding_errors, start, stop)
    return cut_pieces(separate(chunks, config.document_separator))


def separate(chunks: Iterable[str], separator: str | None) -> Iterator[tuple[str, bool]]:
    """(text, whether a document ends after it) for text that arrives in chunks; the separator may lie across two."""
    held = ""
    for chunk in chunks:
        held += chunk
        if separator is None:
            yield held, False
            held = ""
            continue
        *documents, held = held.split(separator)
        for document in documents:
            yield document, True
        certain = max(0, len(held) - len(separator) + 1)
        yield held[:certain], False
        held = held[certain:]
    yield held, True


def cut_pieces(stretches: Iterable[tuple[str, bool]]) -> Iterator[Piece]:
    """Cut documents that come in stretches of any length into pieces; where, depends only on the document's text."""
    held = ""
    for text, is_last in stretches:
        if is_last and not held and len(text) <= PIECE_CHARACTERS:
            yield Piece(text, True)
            continue
        held += text
        start = 0
        while len(held) - start > PIECE_CHARACTERS:
            end = safe_cut(held, start, start + PIECE_CHARACTERS)
            yield Piece(held[start:end], False)
            start = end
        held = held[start:]
        if is_last:
            yield Piece(held, True)
            held = ""


def safe_cut(text: str, start: int, limit: int) -> int:
    r"""The last place in (start, limit] of a longer text where the split patterns of GPT tokenizers part it anyway.

    Best after a line end between two characters that are no space; otherwise before a single space between two such;
    otherwise before the last of several white spaces (right for GPT-2's pattern; others may lose a token there).
    A text without any of these is cut at the limit, which may cost a token.
    """
    for mark, place in (("\n", 1), (" ", 0)):
        at = text.rfind(mark, start + 1, limit)
        while at > start:
            if not text[at - 1].isspace() and not text[at + 1].isspace():
                return at + place
            at = text.rfind(mark, start + 1, at)
    for at in range(limit - 1, start, -1):
        if text[at] in " \t\r\n" and not text[at + 1].isspace():
            return at
    return limit
