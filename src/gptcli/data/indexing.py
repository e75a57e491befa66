"""The index of a corpus: a record of every document in a file, without the files that cannot be read.

No part of a file that is left out is used, however much of it could be read; whether it is left out does not depend on
how the work is divided.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from gptcli.console import Progress
from gptcli.data.left_out import LeftOut
from gptcli.data.readers import ScannedFile
from gptcli.data.section_index import RECORD_BYTES, IndexedSection
from gptcli.data.sections import Section
from gptcli.data.split_reader import DOCUMENTS
from gptcli.data.stages import IndexJob, index, index_into
from gptcli.data.worker_pool import WorkerConfig, in_order
from gptcli.storage import append_content, create_file, open_regular, publish, temporary_name

COPIED_RECORDS = 1 << 15


class IndexedCorpus(NamedTuple):
    """The files that can be read, with their documents, and the files that are left out."""

    files: list[ScannedFile]
    numbers: list[int]
    """The places that `files` had among all files."""
    sections: list[Section]
    """The sections of `files`, to be read from now on."""
    left_out: list[LeftOut]
    replaced: int
    """The number of U+FFFD characters that replaced undecodable bytes of the files."""

    @classmethod
    def of(cls, files: Sequence[ScannedFile], indexed: Sequence[IndexedSection]) -> IndexedCorpus:
        """Return the corpus of `files` without those that were refused, from the results for their sections."""
        refused = refusals(indexed)
        kept = [number for number in range(len(files)) if number not in refused]
        numbers = {number: place for place, number in enumerate(kept)}
        sections = placed(
            section._replace(number=numbers[section.number])
            for one in indexed
            for section in one.sections
            if section.number in numbers
        )
        left_out = [LeftOut(files[number].name, *reason) for number, reason in sorted(refused.items())]
        read = [one for one in indexed if one.sections and one.sections[0].number in numbers]
        replaced = sum(one.replaced for one in read)
        return cls(with_documents([files[number] for number in kept], sections), kept, sections, left_out, replaced)


def refusals(indexed: Sequence[IndexedSection]) -> dict[int, tuple[str, str]]:
    """Return the refused files, by number, each with the reason and the remedy of its first refused section."""
    found: dict[int, tuple[str, str]] = {}
    for one in indexed:
        if one.reason:
            found.setdefault(one.sections[0].number, (one.reason, one.remedy))
    return found


def index_documents(
    path: Path, files: Sequence[ScannedFile], jobs: list[IndexJob], workers: WorkerConfig
) -> IndexedCorpus:
    """Write a RECORD for every document to `path`, in order.

    Raises:
        DataError: A file that may not be left out cannot be read.
    """
    indexed: list[IndexedSection] = []
    if len(jobs) == 1:
        (job,) = jobs
        is_plain = all(file.path.endswith((".txt", ".md", ".py")) for _, file in job.sections)
        total = sum(file.size for _, file in job.sections) if is_plain else None
        with Progress("read", total, unit="B", scale=True) as progress:
            indexed = index_into(path, job, progress.update)
    else:
        with create_file(path) as out, Progress("read", len(jobs), unit="parts") as progress:
            for job, result in zip(jobs, in_order(index, jobs, workers.processes), strict=True):
                indexed += [IndexedSection.of(values) for values in result["noted"]]
                append_content(job.folder / DOCUMENTS, out)
                progress.update()
    refused = refusals(indexed)
    if any(one.documents for one in indexed if one.sections[0].number in refused):
        drop_records(path, indexed, refused)
    return IndexedCorpus.of(files, indexed)


def drop_records(path: Path, indexed: Sequence[IndexedSection], refused: Iterable[int]) -> None:
    """Rewrite the file of records without those of the `refused` files."""
    temporary = temporary_name(path)
    with open_regular(path) as source, create_file(temporary) as out:
        for one in indexed:
            copy_records(source, out, one.documents, one.sections[0].number not in refused)
    publish(temporary, path)


def copy_records(source: IO[bytes], out: IO[bytes], count: int, is_kept: bool) -> None:
    """Copy the next `count` records, or skip them."""
    if not is_kept:
        source.seek(count * RECORD_BYTES.size, 1)
        return
    while count:
        some = min(count, COPIED_RECORDS)
        out.write(source.read(some * RECORD_BYTES.size))
        count -= some


def placed(sections: Iterable[Section]) -> list[Section]:
    """Return the sections with the numbers of the documents before them."""
    found, first = [], 0
    for section in sections:
        first -= int(section.position > 0)  # it continues the document before
        found.append(section._replace(first=first))
        first += section.documents
    return found


def with_documents(files: Sequence[ScannedFile], sections: Iterable[Section]) -> list[ScannedFile]:
    """Return the files with the numbers of their documents."""
    documents = [0] * len(files)
    for section in sections:
        documents[section.number] += section.documents * (section.position == 0)
    return [file._replace(documents=count) for file, count in zip(files, documents, strict=True)]
