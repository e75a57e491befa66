"""Readers of the files of a corpus: their documents in pieces, each with its digest and sizes."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gptcli.data.cache import FileChanged
from gptcli.data.config import DataConfig
from gptcli.data.corpus import read_pieces
from gptcli.data.decoding import Decoding
from gptcli.data.file_formats import Format, SourceFile

HALVES = struct.Struct("<2Q")

Record = tuple[int, int, int, int]
"""The values of a RECORD: both halves of the digest, UTF-8 bytes, characters."""


class ScannedFile(NamedTuple):
    """A file of the corpus, as it was when it was read; `documents` counts the dropped ones too."""

    path: str
    name: str
    size: int
    version: str
    """Identifies the content: its SHA-256, or inode and times if the corpus is too large to be hashed each time."""
    changed_ns: int
    """The last change of a file that is not hashed, in nanoseconds since 1970; 0 for one that is."""
    format: Format = "text"
    is_optional: bool = False
    """Whether the file is left out if it cannot be read."""
    documents: int = 0

    @property
    def source(self) -> SourceFile:
        """The file as it is read."""
        return SourceFile(Path(self.path), self.name, self.format, self.is_optional)


class MeasuredPiece(NamedTuple):
    """A stretch of a document; the last one of a document has its `record`, the others None."""

    text: str
    bytes: int
    record: Record | None


class Measure:
    """The digest and the sizes of a text that comes in pieces."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b(digest_size=16)
        self.size = self.characters = 0
        self.is_blank = True

    def add(self, text: str) -> int:
        """Add a piece and return its UTF-8 bytes."""
        content = text.encode()
        self.digest.update(content)
        self.size += len(content)
        self.characters += len(text)
        self.is_blank = self.is_blank and (not text or text.isspace())
        return len(content)

    @property
    def record(self) -> Record:
        """The values of the text's RECORD."""
        high, low = HALVES.unpack(self.digest.digest())
        return high, low, self.size, 0 if self.is_blank else self.characters


def read_measured(
    file: ScannedFile, config: DataConfig, start: int = 0, stop: int | None = None, decoding: Decoding | None = None
) -> Iterator[MeasuredPiece]:
    """Yield the documents of a file in pieces, or with `stop` those of a section, and measure them on the way."""
    measure = Measure()
    for text, is_last in read_pieces(file.source, config, start, stop, decoding):
        size = measure.add(text)
        record = None
        if is_last:
            record, measure = measure.record, Measure()
        yield MeasuredPiece(text, size, record)


def file_changed(file: ScannedFile) -> FileChanged:
    """Return the error for a file that has changed since it was scanned."""
    return FileChanged(f"{file.name} changed while it was being read", "run the same command again")
