"""The first reading of a section of a corpus, which records the digest and the sizes of each document."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from gptcli.data.config import DataConfig
from gptcli.data.corpus import may_be_left_out
from gptcli.data.decoding import Decoding
from gptcli.data.readers import Measure, ScannedFile, read_measured
from gptcli.data.sections import BYTE_ORDER_MARK, Section, is_divisible
from gptcli.errors import DataError, StorageError
from gptcli.storage import open_regular

RECORD_BYTES = struct.Struct("<4Q")
"""The layout of a RECORD in a file."""

OnProgress = Callable[[int], object]
"""Is called with each number of bytes that has been read."""


class IndexedSection(NamedTuple):
    """The result of the first reading of a section."""

    sections: list[Section]
    """The sections to read from now on: the same one, or several that are parts of a long text."""
    documents: int
    """The number of RECORDs that were written."""
    replaced: int = 0
    """The number of U+FFFD characters that replaced undecodable bytes."""
    reason: str = ""
    """The reason why its file is left out; empty if it is read."""
    remedy: str = ""

    @classmethod
    def of(cls, values: Sequence[Any]) -> IndexedSection:
        """Return the result whose `values` were read back from JSON."""
        sections, *others = values
        return cls([Section.of(section) for section in sections], *others)


@dataclass(frozen=True)
class SectionIndexer:
    """Writes a RECORD for every document of sections to `out`, and cuts long texts into parts of `section_bytes`."""

    config: DataConfig
    section_bytes: int
    out: IO[bytes]
    on_progress: OnProgress

    def index(self, section: Section, file: ScannedFile) -> IndexedSection:
        """Index a section. If it cannot be read and its file may be left out, nothing of it remains in `out`.

        Raises:
            DataError: The section cannot be read, and its file may not be left out.
        """
        decoding, begins = Decoding.of(self.config), self.out.tell()
        try:
            if section.stop is None and file.size >= 2 * self.section_bytes and is_divisible(file.source, self.config):
                sections = self.index_long_text(section, file)
            else:
                sections = [self.index_documents(section, file, decoding)]
        except (DataError, StorageError) as error:
            if not may_be_left_out(file.source, error):
                raise
            self.out.seek(begins)
            self.out.truncate()
            return IndexedSection([section], 0, 0, error.message.replace(file.name, "it"), error.remedy)
        return IndexedSection(sections, (self.out.tell() - begins) // RECORD_BYTES.size, decoding.replaced)

    def index_documents(self, section: Section, file: ScannedFile, decoding: Decoding) -> Section:
        """Index a section that is read as one, and return it with the number of its documents."""
        documents = 0
        for piece in read_measured(file, self.config, section.start, section.stop, decoding):
            self.on_progress(piece.bytes)
            if piece.record is not None:
                documents += 1
                self.out.write(RECORD_BYTES.pack(*piece.record))
        return section._replace(documents=documents)

    def index_long_text(self, section: Section, file: ScannedFile) -> list[Section]:
        """Index a text that is one document, and return its parts, which are cut where a piece ends."""
        sections: list[Section] = []
        part, start, position = Measure(), 0, 0
        with open_regular(Path(file.path)) as content:
            end = len(BYTE_ORDER_MARK) if content.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK else 0
        for piece in read_measured(file, self.config):
            self.on_progress(piece.bytes)
            end += part.add(piece.text)
            if piece.record is not None:
                self.out.write(RECORD_BYTES.pack(*piece.record))
            if piece.record is not None or part.size >= self.section_bytes:
                sections.append(
                    section._replace(start=start, stop=end, documents=1, position=position, record=part.record)
                )
                start, position, part = end, position + part.characters, Measure()
        return sections
