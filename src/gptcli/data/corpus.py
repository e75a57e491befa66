"""Documents: a row of a row file, a text file, or a part of a text file between separators.

A document may be larger than memory, so it is passed on as pieces, cut where no tokenizer joins characters across the
cut: encoding the pieces gives the same tokens as encoding the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gptcli.console import quantity
from gptcli.data.config import DataConfig
from gptcli.data.decoding import Decoding, read_text
from gptcli.data.file_formats import SourceFile
from gptcli.data.left_out import LeftOut, say_left_out, warn_of_replaced
from gptcli.data.rows import read_rows
from gptcli.data.separators import separate, separator_of
from gptcli.data.sources import find_files
from gptcli.data.token_files import is_token_file
from gptcli.errors import DataError, GptcliError, StorageError
from gptcli.storage import default_cache_dir

PIECE_CHARACTERS = 1 << 20
"""Longest piece; nearly every document is one."""


class Document(NamedTuple):
    """A whole document and the name of the file it came from."""

    text: str
    source: str


class DocumentPiece(NamedTuple):
    """A stretch of a document; the piece after the last one begins the next document."""

    text: str
    is_last: bool


def corpus_documents(sources: Sequence[str], config: DataConfig, cache_dir: Path | None = None) -> Iterator[Document]:
    """Iterate over the documents of `sources` in order, each whole in memory, without those that hold only white space.

    Files of folders that cannot be read are left out with a message. They are read once before the rest, so that no
    part of them is used.

    Raises:
        DataError: a source is missing, nothing can be read (both at once), or a file cannot be read (at its turn).
    """
    found = find_files(sources, config, cache_dir or default_cache_dir())
    refused = [(file, refusal(file, config)) for file in found.files if file.is_optional]
    left_out = [LeftOut(file.name, *reason) for file, reason in refused if reason is not None]
    names = {one.name for one in left_out}
    files = [file for file in found.files if file.name not in names]
    if found.files and not files:
        raise nothing_readable_error(left_out)
    say_left_out([*left_out, *found.left_out])
    return documents_of(files, config)


def documents_of(files: Sequence[SourceFile], config: DataConfig) -> Iterator[Document]:
    """Iterate over the documents of files, and warn of replaced characters at the end."""
    decoding, characters = Decoding.of(config), 0
    for file in files:
        for document in read_documents(file, config, decoding):
            characters += len(document.text)
            yield document
    warn_of_replaced(decoding.replaced, characters)


def read_documents(file: SourceFile, config: DataConfig, decoding: Decoding | None = None) -> Iterator[Document]:
    """Iterate over the documents of one file, each whole in memory, without those that hold only white space."""
    parts: list[str] = []
    for text, is_last in read_pieces(file, config, decoding=decoding):
        parts.append(text)
        if is_last:
            whole = "".join(parts)
            parts.clear()
            if whole and not whole.isspace():
                yield Document(whole, file.name)


def refusal(file: SourceFile, config: DataConfig, wanted: int | None = None) -> tuple[str, str] | None:
    """Return the reason why a file of a folder cannot be read, and the remedy; None if it can be read.

    With `wanted` only its first characters, at least that many, are read.
    """
    read = 0
    try:
        for piece in read_pieces(file, config):
            read += len(piece.text)
            if wanted is not None and read >= wanted:
                break
    except (DataError, StorageError) as error:
        if not may_be_left_out(file, error):
            raise
        return error.message.replace(file.name, "it"), error.remedy
    return None


def may_be_left_out(file: SourceFile, error: GptcliError) -> bool:
    """Return whether a corpus is read without a file that cannot be read: one that was not named, for a reason in
    itself.
    """
    is_its_own = isinstance(error, DataError) or isinstance(error.__cause__, PermissionError | FileNotFoundError)
    return file.is_optional and is_its_own


def nothing_readable_error(left_out: Sequence[LeftOut]) -> DataError:
    """Return the error for a corpus of which every file was refused."""
    first = left_out[0]
    others = f" and {quantity(len(left_out) - 1, 'other')}" * (len(left_out) > 1)
    return DataError(f"no file of the corpus can be read; {first.name}{others}: {first.reason}", first.remedy)


def read_pieces(
    file: SourceFile, config: DataConfig, start: int = 0, stop: int | None = None, decoding: Decoding | None = None
) -> Iterator[DocumentPiece]:
    """Iterate over every document of one file, also empty ones, in pieces of at most PIECE_CHARACTERS.

    Args:
        file: the file.
        config: how to read it.
        start: the beginning of a section, see sections.py.
        stop: the end of the section; None for the whole file.
        decoding: counts replaced characters.
    """
    path, name = file.path, file.name
    decoding = decoding or Decoding.of(config)
    if is_token_file(path.name):
        raise DataError(
            f"{name} holds tokens by its ending, and a text is needed here",
            "train on it by steps, without --time, or name the text",
        )
    if file.format != "text":
        return cut_pieces((row, True) for row in read_rows(file, config, decoding, start, stop))
    chunks = read_text(path, name, decoding, start, stop)
    return cut_pieces(separate(chunks, separator_of(config)))


def cut_pieces(stretches: Iterable[tuple[str, bool]]) -> Iterator[DocumentPiece]:
    """Cut documents that come in stretches of any length into pieces, at places that depend only on the document's
    text.
    """
    held = ""
    for text, is_last in stretches:
        if is_last and not held and len(text) <= PIECE_CHARACTERS:
            yield DocumentPiece(text, True)
            continue
        held += text
        start = 0
        while len(held) - start > PIECE_CHARACTERS:
            end = safe_cut(held, start, start + PIECE_CHARACTERS)
            yield DocumentPiece(held[start:end], False)
            start = end
        held = held[start:]
        if is_last:
            yield DocumentPiece(held, True)
            held = ""


def safe_cut(text: str, start: int, limit: int) -> int:
    """Return the last place in (start, limit] of a longer text where the split patterns of GPT tokenizers split it
    anyway.

    The best place is after a line end between two characters that are not spaces; otherwise before a single space
    between two such; otherwise before the last of several white spaces (right for GPT-2's pattern; others may lose a
    token there). A text without any of these is cut at the limit, which may cost a token.
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
