"""The two ways to go through a corpus: to note each document's digest and size, and to give out the parts of the split.

Every pass checks each document against its note, so that a file that changes between two passes is an error and never a
mixture. Knows no statistics, no cache and no tokens.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gptcli.console import Progress
from gptcli.data.config import DataConfig
from gptcli.data.corpus import read_pieces
from gptcli.data.sources import SourceFile
from gptcli.data.split import CUT, RECORD, TRAIN, VAL, Split
from gptcli.errors import DataError
from gptcli.storage import storage_errors

RECORD_BUFFER = 1 << 14


class ScannedFile(NamedTuple):
    """A file of the corpus, as it was when it was read; `documents` counts the dropped ones too."""

    path: str
    name: str
    size: int
    mtime_ns: int
    documents: int = 0


class SplitPiece(NamedTuple):
    """A stretch of a kept document: its part, its UTF-8 bytes, and whether it is the first of its document."""

    text: str
    bytes: int
    is_val: bool
    starts: bool


class DocumentPiece(NamedTuple):
    """A stretch of any document; `record` is that of the document, given with its last piece, else none."""

    text: str
    bytes: int
    record: tuple[int, int, int, int] | None


def look_at(file: SourceFile) -> ScannedFile:
    """The file's size and time of last change, by which a cached scan of it is found again."""
    with storage_errors(file.name, "read"):
        status = file.path.stat()
    # Of a link the name stays, whose ending says what is in it: in the hub's cache the file's own name has none.
    return ScannedFile(os.path.abspath(file.path), file.name, status.st_size, status.st_mtime_ns)


def read_measured(file: ScannedFile, config: DataConfig) -> Iterator[DocumentPiece]:
    """The documents of a file in pieces, measured on the way."""
    digest, size, characters, is_blank = hashlib.blake2b(digest_size=16), 0, 0, True
    for text, is_last in read_pieces(SourceFile(Path(file.path), file.name), config):
        content = text.encode()
        digest.update(content)
        size += len(content)
        characters += len(text)
        is_blank = is_blank and (not text or text.isspace())
        record = None
        if is_last:
            high, low = (int.from_bytes(half, "little") for half in (digest.digest()[:8], digest.digest()[8:]))
            record = (high, low, size, 0 if is_blank else characters)
            digest, size, characters, is_blank = hashlib.blake2b(digest_size=16), 0, 0, True
        yield DocumentPiece(text, len(content), record)


def note_documents(files: list[ScannedFile], config: DataConfig, path: Path) -> list[ScannedFile]:
    """Write a RECORD for every document to `path`; the same files with the numbers of their documents."""
    counted = []
    is_plain = all(file.path.endswith((".txt", ".md", ".py")) for file in files)
    total = sum(file.size for file in files) if is_plain else None
    with path.open("wb") as out, Progress("read", total, unit="B", scale=True) as progress:
        for file in files:
            documents, buffer = 0, []
            for piece in read_measured(file, config):
                progress.update(piece.bytes)
                if piece.record is None:
                    continue
                documents += 1
                buffer.append(piece.record)
                if len(buffer) == RECORD_BUFFER:
                    out.write(np.array(buffer, dtype=RECORD).tobytes())
                    buffer.clear()
            out.write(np.array(buffer, dtype=RECORD).tobytes())
            counted.append(file._replace(documents=documents))
    return counted


def read_split(
    files: tuple[ScannedFile, ...], config: DataConfig, records: np.ndarray, split: Split, kinds: tuple[int, ...]
) -> Iterator[SplitPiece]:
    """The kept documents in order, in pieces; files without a document of `kinds` (TRAIN, VAL, CUT) are passed over.

    Raises:
        DataError: a file is not what it was when its documents were noted.
    """
    stop = 0
    for file in files:
        start, stop = stop, stop + file.documents
        if np.isin(split.assignment[start:stop], kinds).any():
            yield from read_split_file(file, config, records[start:stop], split.assignment[start:stop], split.cut_at)


def read_split_file(
    file: ScannedFile, config: DataConfig, records: np.ndarray, assignment: np.ndarray, cut_at: int
) -> Iterator[SplitPiece]:
    """`read_split` of one file, given the part of the arrays that is about it."""
    number, position = 0, 0  # of the document in the file, of the piece in the document
    for text, size, record in read_measured(file, config):
        if number == len(records):
            raise changed(file)
        kind = assignment[number]
        if kind == CUT:
            yield from cut_piece(text, position, cut_at)
        elif kind in (TRAIN, VAL):
            yield SplitPiece(text, size, bool(kind == VAL), starts=position == 0)
        position += len(text)
        if record is not None:
            if record != records[number].item():
                raise changed(file)
            number, position = number + 1, 0
    if number != len(records):
        raise changed(file)


def cut_piece(text: str, position: int, cut_at: int) -> Iterator[SplitPiece]:
    """The piece at character `position` of the document whose characters from `cut_at` on are validated on."""
    place = min(max(cut_at - position, 0), len(text))
    head, tail = text[:place], text[place:]
    if head:
        yield SplitPiece(head, len(head.encode()), is_val=False, starts=position == 0)
    if tail:
        yield SplitPiece(tail, len(tail.encode()), is_val=True, starts=position + place == cut_at)


def changed(file: ScannedFile) -> DataError:
    return DataError(f"{file.name} changed while it was being read", "run the same command again")
