"""A reader of the documents that a scan has kept, each in its split.

Every reading compares each document with its record in the scan's index, so that a file that changes between two
readings is an error and never a mixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptcli.data.arrays import stretches
from gptcli.data.cache import require_whole
from gptcli.data.config import DataConfig
from gptcli.data.readers import Record, ScannedFile, file_changed, read_measured
from gptcli.data.sections import FileSection, Section, group
from gptcli.data.split import CUT, RECORD, TRAIN, VAL
from gptcli.manifest import MANIFEST_NAME

DOCUMENTS, ASSIGNMENT = "documents.bin", "assignment.bin"
"""Files of a scan: the RECORD of every document, and its assignment."""
KEPT = (TRAIN, VAL, CUT)
RECORDS_AT_ONCE = 1 << 12


class SplitPiece(NamedTuple):
    """A stretch of a kept document; `starts` if it is the first of the document in its split."""

    text: str
    bytes: int
    is_val: bool
    starts: bool


@dataclass(frozen=True)
class SplitReader:
    """Reads the kept documents of neighbouring sections of a corpus."""

    sections: tuple[FileSection, ...]
    config: DataConfig
    scan: Path
    """The directory of the scan, which has the record and the assignment of each document."""
    cut_at: int
    """The character at which the one document that is in both splits is cut."""

    def parts(self, section_bytes: int) -> list[SplitReader]:
        """Return readers of about `section_bytes` of text each."""
        return [replace(self, sections=some) for some in group(self.sections, section_bytes)]

    def pieces(self, kinds: tuple[int, ...] = KEPT) -> Iterator[SplitPiece]:
        """Yield the kept documents in order, in pieces; sections without a document of `kinds` are skipped."""
        self.require_scan()
        for section, file in self.sections:
            yield from self.read(section, file, kinds)

    def require_scan(self) -> None:
        """Raise a DataError if the scan is damaged; one that is still being made has no manifest yet."""
        if (self.scan / MANIFEST_NAME).exists():
            require_whole(self.scan)

    def read(self, section: Section, file: ScannedFile, kinds: tuple[int, ...]) -> Iterator[SplitPiece]:
        """Yield the kept documents of a section in order, in pieces, if it has a document of `kinds`.

        Raises:
            DataError: The section has changed since its documents were indexed.
        """
        assignment = self.assignment(section)
        if not np.isin(assignment, kinds).any():
            return
        known = iter_records(self.records(section)) if section.record is None else iter([section.record])
        assigned = assignment.tobytes()
        number, position = 0, section.position  # of the document in the section, of the piece in the document
        for text, size, record in read_measured(file, self.config, section.start, section.stop):
            if number == len(assigned):
                raise file_changed(file)
            kind = assigned[number]
            if kind == CUT:
                yield from cut_piece(text, position, self.cut_at)
            elif kind in (TRAIN, VAL):
                yield SplitPiece(text, size, kind == VAL, position == 0)
            position += len(text)
            if record is not None:
                if record != next(known):
                    raise file_changed(file)
                number, position = number + 1, 0
        if number != len(assigned):
            raise file_changed(file)

    def records(self, section: Section) -> np.ndarray:
        """Return the RECORDs of the documents of a section."""
        return self.mapped(section, DOCUMENTS, RECORD)

    def assignment(self, section: Section) -> np.ndarray:
        """Return the assignment of the documents of a section."""
        return self.mapped(section, ASSIGNMENT, np.dtype(np.uint8))

    def mapped(self, section: Section, name: str, dtype: np.dtype[Any]) -> np.ndarray:
        """Map the part of a file of the scan that is about the documents of a section."""
        count, first = section.documents, section.first
        if not count:
            return np.empty(0, dtype)
        return np.memmap(self.scan / name, dtype, mode="r", offset=first * dtype.itemsize, shape=(count,))


def iter_records(records: np.ndarray) -> Iterator[Record]:
    """Yield records as tuples of Python's numbers, some thousand at a time."""
    for _, some in stretches(records):
        for start in range(0, len(some), RECORDS_AT_ONCE):
            yield from some[start : start + RECORDS_AT_ONCE].tolist()


def cut_piece(text: str, position: int, cut_at: int) -> Iterator[SplitPiece]:
    """Yield the piece at character `position` of a document that is validated on from character `cut_at`."""
    place = min(max(cut_at - position, 0), len(text))
    head, tail = text[:place], text[place:]
    if head:
        yield SplitPiece(head, len(head.encode()), is_val=False, starts=position == 0)
    if tail:
        yield SplitPiece(tail, len(tail.encode()), is_val=True, starts=position + place == cut_at)
