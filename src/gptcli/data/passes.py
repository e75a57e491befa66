"""The two ways to go through a corpus: to note each document's digest and size, and to give out the parts of the split.

Every pass checks each document against its note, so that a file that changes between two passes is an error and never a
mixture. Knows no statistics, no cache and no tokens.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from gptcli.data.arrays import stretches
from gptcli.data.cache import FileChanged
from gptcli.data.config import DataConfig
from gptcli.data.corpus import may_be_left_out, read_pieces
from gptcli.data.decoding import Decoding
from gptcli.data.file_formats import Format, SourceFile
from gptcli.data.sections import BYTE_ORDER_MARK, Section, is_divisible
from gptcli.data.split import CUT, TRAIN, VAL
from gptcli.errors import DataError, StorageError
from gptcli.storage import open_regular

RECORD_BYTES = struct.Struct("<4Q")
"""A RECORD as one writes it."""
HALVES = struct.Struct("<2Q")
RECORDS_AT_ONCE = 1 << 12


class ScannedFile(NamedTuple):
    """A file of the corpus, as it was when it was read; `documents` counts the dropped ones too."""

    path: str
    name: str
    size: int
    version: str
    """Identifies the content: its SHA-256, or inode and times where the corpus is too large to be hashed each time."""
    changed_ns: int
    """When a file that is not hashed last changed, in nanoseconds since 1970; 0 for one that is."""
    format: Format = "text"
    is_optional: bool = False
    """Whether it is left out where it cannot be read."""
    documents: int = 0

    @property
    def source(self) -> SourceFile:
        """The file as it is read."""
        return SourceFile(Path(self.path), self.name, self.format, self.is_optional)


class NotedSection(NamedTuple):
    """The result of the first reading of a section."""

    sections: list[Section]
    """The sections to read from now on: the same one, or several that are parts of a long text."""
    documents: int
    """The number of RECORDs that were written."""
    replaced: int = 0
    """The number of U+FFFD characters that replaced undecodable bytes."""
    reason: str = ""
    """The reason why its file is left out; empty where it is read."""
    remedy: str = ""

    @classmethod
    def of(cls, values: Sequence[Any]) -> NotedSection:
        """The result with the `values` that were read back from JSON."""
        sections, *others = values
        return cls([Section(*section) for section in sections], *others)


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


class Measure:
    """Digest and sizes of a text that comes in pieces."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b(digest_size=16)
        self.size = self.characters = 0
        self.is_blank = True

    def add(self, text: str) -> int:
        """Returns the UTF-8 bytes of `text`."""
        content = text.encode()
        self.digest.update(content)
        self.size += len(content)
        self.characters += len(text)
        self.is_blank = self.is_blank and (not text or text.isspace())
        return len(content)

    @property
    def record(self) -> tuple[int, int, int, int]:
        """What a RECORD holds."""
        high, low = HALVES.unpack(self.digest.digest())
        return high, low, self.size, 0 if self.is_blank else self.characters


def read_measured(
    file: ScannedFile, config: DataConfig, start: int = 0, stop: int | None = None, decoding: Decoding | None = None
) -> Iterator[DocumentPiece]:
    """The documents of a file in pieces, measured on the way; with `stop` those of a section."""
    measure = Measure()
    for text, is_last in read_pieces(file.source, config, start, stop, decoding):
        size = measure.add(text)
        record = None
        if is_last:
            record, measure = measure.record, Measure()
        yield DocumentPiece(text, size, record)


def note_section(
    section: Section,
    file: ScannedFile,
    config: DataConfig,
    section_bytes: int,
    out: IO[bytes],
    told: Callable[[int], object],
) -> NotedSection:
    """Write a RECORD for every document of a section to `out`; what was found.

    A section of a file that may be left out, and that cannot be read, leaves nothing in `out`. `told` is called with
    the numbers of bytes that were read.

    Raises:
        DataError: it cannot be read, and may not be left out.
    """
    decoding, begins = Decoding.of(config), out.tell()
    try:
        if section.stop is None and file.size >= 2 * section_bytes and is_divisible(file.source, config):
            sections = note_long_text(section, file, config, section_bytes, out, told)
        else:
            sections = [note_whole(section, file, config, decoding, out, told)]
    except (DataError, StorageError) as error:
        if not may_be_left_out(file.source, error):
            raise
        out.seek(begins)
        out.truncate()
        return NotedSection([section], 0, 0, error.message.replace(file.name, "it"), error.remedy)
    return NotedSection(sections, (out.tell() - begins) // RECORD_BYTES.size, decoding.replaced)


def note_whole(
    section: Section,
    file: ScannedFile,
    config: DataConfig,
    decoding: Decoding,
    out: IO[bytes],
    told: Callable[[int], object],
) -> Section:
    """`note_section` of a section that is read as one; it, with the number of its documents."""
    documents = 0
    for piece in read_measured(file, config, section.start, section.stop, decoding):
        told(piece.bytes)
        if piece.record is not None:
            documents += 1
            out.write(RECORD_BYTES.pack(*piece.record))
    return section._replace(documents=documents)


def note_long_text(
    section: Section,
    file: ScannedFile,
    config: DataConfig,
    section_bytes: int,
    out: IO[bytes],
    told: Callable[[int], object],
) -> list[Section]:
    """`note_section` of a text that is one document: its parts of about `section_bytes`, cut where a piece ends."""
    sections: list[Section] = []
    part, start, position = Measure(), 0, 0
    with open_regular(file.path) as content:
        end = len(BYTE_ORDER_MARK) if content.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK else 0
    for piece in read_measured(file, config):
        told(piece.bytes)
        end += part.add(piece.text)
        if piece.record is not None:
            out.write(RECORD_BYTES.pack(*piece.record))
        if piece.record is not None or part.size >= section_bytes:
            sections.append(section._replace(start=start, stop=end, documents=1, position=position, record=part.record))
            start, position, part = end, position + part.characters, Measure()
    return sections


def read_section(
    section: Section,
    file: ScannedFile,
    config: DataConfig,
    records: np.ndarray,
    assignment: np.ndarray,
    cut_at: int,
) -> Iterator[SplitPiece]:
    """The kept documents of a section in order, in pieces, given the part of the arrays that is about it.

    Raises:
        DataError: it is not what it was when its documents were noted.
    """
    notes = iter_records(records) if section.record is None else iter([section.record])
    kinds = assignment.tobytes()
    number, position = 0, section.position  # of the document in the section, of the piece in the document
    for text, size, record in read_measured(file, config, section.start, section.stop):
        if number == len(kinds):
            raise changed(file)
        kind = kinds[number]
        if kind == CUT:
            yield from cut_piece(text, position, cut_at)
        elif kind in (TRAIN, VAL):
            yield SplitPiece(text, size, kind == VAL, position == 0)
        position += len(text)
        if record is not None:
            if record != next(notes):
                raise changed(file)
            number, position = number + 1, 0
    if number != len(kinds):
        raise changed(file)


def iter_records(records: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
    """Records as Python's numbers, some thousand at a time."""
    for _, some in stretches(records):
        for start in range(0, len(some), RECORDS_AT_ONCE):
            yield from some[start : start + RECORDS_AT_ONCE].tolist()


def cut_piece(text: str, position: int, cut_at: int) -> Iterator[SplitPiece]:
    """The piece at character `position` of the document whose characters from `cut_at` on are validated on."""
    place = min(max(cut_at - position, 0), len(text))
    head, tail = text[:place], text[place:]
    if head:
        yield SplitPiece(head, len(head.encode()), is_val=False, starts=position == 0)
    if tail:
        yield SplitPiece(tail, len(tail.encode()), is_val=True, starts=position + place == cut_at)


def changed(file: ScannedFile) -> FileChanged:
    return FileChanged(f"{file.name} changed while it was being read", "run the same command again")
