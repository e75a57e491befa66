"""Sections of the files of a corpus, so that several processes read it, and one that was stopped can go on.

A section is a stretch of a file that holds the same documents read by itself as read in its place. Rows and documents
with a separator are cut between two of them; a text that is one document is cut only once it has been read, where its
pieces end. The cuts depend on the files alone, never on the number of processes.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gptcli.data.compression import COMPRESSIONS, is_compressed
from gptcli.data.config import DataConfig
from gptcli.data.file_formats import SourceFile
from gptcli.data.readers import Record, ScannedFile
from gptcli.data.separators import Separator, section_ends, separator_of
from gptcli.storage import open_regular, storage_errors

SECTION_BYTES = 1 << 26
"""The size of a section, as nearly as its documents allow, and so the work that is lost when a process is killed."""
EXPANSION = 4
"""The bytes of text that one compressed byte is assumed to hold."""
OPENING_BYTES = 1 << 12
BYTE_ORDER_MARK = "\ufeff".encode()


class Section(NamedTuple):
    """Bytes start..stop-1 of file `number` of the corpus (row groups of a .parquet); the whole file if `stop` is None.

    It holds `documents` documents, and `first` documents precede it in the corpus. Each section of a document that is
    longer than a section counts as one document: it begins at character `position`, and `record` has its own digest and
    sizes.
    """

    number: int
    start: int = 0
    stop: int | None = None
    first: int = 0
    documents: int = 0
    position: int = 0
    record: Record | None = None

    @classmethod
    def of(cls, values: Sequence[Any]) -> Section:
        """Return the section whose `values` were read back from JSON."""
        section = cls(*values)
        return section._replace(record=None if section.record is None else (*section.record,))


FileSection = tuple[Section, ScannedFile]
"""A section and the file that it is a part of."""


def is_divisible(file: SourceFile, config: DataConfig) -> bool:
    """Return whether a file is plain text without separators, so that bytes of its text are bytes of the file."""
    return (
        file.format == "text"
        and config.document_separator is None
        and config.encoding_errors == "strict"
        and config.encoding == "utf-8"
        and not is_compressed(file.path)
    )


def cut_file(number: int, file: SourceFile, size: int, config: DataConfig, section_bytes: int) -> list[Section]:
    """Return the sections of about `section_bytes` of a file, as far as they are known before it is read."""
    whole = [Section(number)]
    if size < 2 * section_bytes:
        return whole
    if file.format == "parquet":
        groups = [] if is_compressed(file.path) else row_groups(file.path, section_bytes)
        return [Section(number, *some) for some in groups] or whole
    separator = Separator(r"\n") if file.format == "jsonl" else separator_of(config)
    is_text = file.format in ("jsonl", "text") and config.encoding == "utf-8"
    if separator is None or not is_text or "\ufffd" in separator.text or is_compressed(file.path):
        return whole
    with (
        storage_errors(file.path, "read"),
        open_regular(file.path) as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        cuts = list(section_ends(content, separator, section_bytes))
    starts = [0, *(end for _, end in cuts)]
    stops = [*(start for start, _ in cuts), size]
    return [Section(number, start, stop) for start, stop in zip(starts, stops, strict=True)]


def row_groups(path: Path, section_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) of row groups of a .parquet file of about `section_bytes`; none if it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with storage_errors(path, "read"), open_regular(path) as file:
            metadata = pq.read_metadata(file)
            sizes = [metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups)]
    except pa.ArrowException:
        return
    first, total = 0, 0
    for index, size in enumerate(sizes):
        total += size
        if total >= section_bytes or index + 1 == len(sizes):
            yield first, index + 1
            first, total = index + 1, 0


def group(sections: Iterable[FileSection], section_bytes: int) -> Iterator[tuple[FileSection, ...]]:
    """Yield neighbouring sections in groups of about `section_bytes` of text, the work that is done at once."""
    together: list[FileSection] = []
    total = 0
    for section, file in sections:
        together.append((section, file))
        total += text_size(section, file.source, file.size, section_bytes)
        if total >= section_bytes:
            yield tuple(together)
            together, total = [], 0
    if together:
        yield tuple(together)


def text_size(section: Section, file: SourceFile, size: int, section_bytes: int) -> int:
    """Estimate the bytes of text of a section of a file of `size` bytes; opening a file counts too."""
    is_columns = file.format == "parquet"
    if section.record is not None:
        return section.record[2]
    if section.stop is None:
        return OPENING_BYTES + size * (EXPANSION if is_columns or file.path.suffix.lower() in COMPRESSIONS else 1)
    return section_bytes if is_columns else section.stop - section.start
