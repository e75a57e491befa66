"""The first pass over a corpus as a whole: every document is noted, and files that cannot be read are left out.

Nothing of a file that is left out is used, however much of it could be read; whether it is does not depend on how the
work is divided. Splitting follows in scan.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from gptcli.console import Progress
from gptcli.data.crew import Means, in_order
from gptcli.data.left_out import LeftOut
from gptcli.data.passes import RECORD_BYTES, NotedSection, ScannedFile
from gptcli.data.sections import Section
from gptcli.data.stages import DOCUMENTS, Job, note, note_into
from gptcli.storage import append_content, create_file, open_regular, publish, temporary_name

COPIED_RECORDS = 1 << 15


class NotedCorpus(NamedTuple):
    """The files that can be read, with their documents, and what was left out."""

    files: list[ScannedFile]
    numbers: list[int]
    """The places that `files` had among all files."""
    sections: list[Section]
    """The sections of `files`, to be read from now on."""
    left_out: list[LeftOut]
    replaced: int
    """The number of U+FFFD characters that replaced undecodable bytes of the files."""

    @classmethod
    def of(cls, files: Sequence[ScannedFile], noted: Sequence[NotedSection]) -> NotedCorpus:
        """The corpus of `files` without those that were refused, from the results for their sections."""
        refused = refusals(noted)
        kept = [number for number in range(len(files)) if number not in refused]
        numbers = {number: place for place, number in enumerate(kept)}
        sections = placed(
            section._replace(number=numbers[section.number])
            for one in noted
            for section in one.sections
            if section.number in numbers
        )
        left_out = [LeftOut(files[number].name, *reason) for number, reason in sorted(refused.items())]
        read = [one for one in noted if one.sections and one.sections[0].number in numbers]
        replaced = sum(one.replaced for one in read)
        return cls(with_documents([files[number] for number in kept], sections), kept, sections, left_out, replaced)


def refusals(noted: Sequence[NotedSection]) -> dict[int, tuple[str, str]]:
    """The files that were refused, by number, with reason and remedy of the first of their sections that was."""
    found: dict[int, tuple[str, str]] = {}
    for one in noted:
        if one.reason:
            found.setdefault(one.sections[0].number, (one.reason, one.remedy))
    return found


def note_documents(path: Path, files: Sequence[ScannedFile], jobs: list[Job], means: Means) -> NotedCorpus:
    """Write a RECORD for every document to `path`, in order.

    Raises:
        DataError: a file that may not be left out cannot be read.
    """
    noted: list[NotedSection] = []
    if len(jobs) == 1:
        is_plain = all(file.path.endswith((".txt", ".md", ".py")) for file in jobs[0].files)
        total = sum(file.size for file in jobs[0].files) if is_plain else None
        with Progress("read", total, unit="B", scale=True) as progress:
            noted = note_into(path, jobs[0], progress.update)
    else:
        with create_file(path) as out, Progress("read", len(jobs), unit="parts") as progress:
            for job, result in zip(jobs, in_order(note, jobs, means.processes), strict=True):
                noted += [NotedSection.of(values) for values in result["noted"]]
                append_content(job.folder / DOCUMENTS, out)
                progress.update()
    refused = refusals(noted)
    if any(one.documents for one in noted if one.sections[0].number in refused):
        drop_records(path, noted, refused)
    return NotedCorpus.of(files, noted)


def drop_records(path: Path, noted: Sequence[NotedSection], refused: Iterable[int]) -> None:
    """Write the file of records again without those of the files `refused`."""
    temporary = temporary_name(path)
    with open_regular(path) as source, create_file(temporary) as out:
        for one in noted:
            copy_records(source, out, one.documents, one.sections[0].number not in refused)
    publish(temporary, path)


def copy_records(source: IO[bytes], out: IO[bytes], count: int, is_kept: bool) -> None:
    """Copy the next `count` records, or pass them over."""
    if not is_kept:
        source.seek(count * RECORD_BYTES.size, 1)
        return
    while count:
        some = min(count, COPIED_RECORDS)
        out.write(source.read(some * RECORD_BYTES.size))
        count -= some


def placed(sections: Iterable[Section]) -> list[Section]:
    """The sections with the numbers of the documents before them."""
    found, first = [], 0
    for section in sections:
        first -= int(section.position > 0)  # it goes on with the document before
        record = None if section.record is None else tuple(section.record)
        found.append(section._replace(first=first, record=record))
        first += section.documents
    return found


def with_documents(files: Sequence[ScannedFile], sections: Iterable[Section]) -> list[ScannedFile]:
    """The files with the numbers of their documents."""
    documents = [0] * len(files)
    for section in sections:
        documents[section.number] += section.documents * (section.position == 0)
    return [file._replace(documents=count) for file, count in zip(files, documents, strict=True)]
