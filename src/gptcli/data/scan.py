"""The scan of a corpus of texts: the documents that are dropped, trained on and validated on.

A scan reads the corpus twice, once to decide on the split and once to count its parts, and keeps 33 bytes of each
document, on disk. The texts are read again as often as they are needed, always in bounded memory; a large corpus is
read by several processes, and a scan that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptcli import strict_json
from gptcli.console import Progress, say
from gptcli.data.arrays import new_array, stretches
from gptcli.data.cache import FileChanged, cache_key, is_whole, new_entry, only_writer, require_whole, unfinished
from gptcli.data.chat import read_template
from gptcli.data.config import DataConfig
from gptcli.data.corpus import nothing_readable_error
from gptcli.data.duplicates import later_occurrences
from gptcli.data.groups import Groups, LinkedGroups
from gptcli.data.indexing import index_documents, placed
from gptcli.data.left_out import LeftOut, left_out_report, say_left_out, warn_of_replaced, warn_of_unused
from gptcli.data.near import near_pairs, require_rensa
from gptcli.data.readers import ScannedFile
from gptcli.data.sections import Section, cut_file
from gptcli.data.separator_check import separator_warning
from gptcli.data.sources import find_files
from gptcli.data.split import BLANK, CUT, DUPLICATE, OVERLAP, RECORD, TRAIN, VAL, Split, split_documents
from gptcli.data.split_reader import ASSIGNMENT, DOCUMENTS, KEPT, SplitPiece, SplitReader
from gptcli.data.stages import Counts, Job, SplitStatistics, count, index_jobs, split_jobs
from gptcli.data.versions import is_settled, look_at, require_same
from gptcli.data.worker_pool import WorkerConfig, in_order
from gptcli.data.workspace import Workspace
from gptcli.errors import DataError
from gptcli.manifest import dump_with_checksum, load_with_checksum
from gptcli.storage import HUGE, read_regular, write_atomic, write_file
from gptcli.tokenizer.tokenizer import Tokenizer

SCAN, SECTIONS, CHARACTERS = "scan.json", "sections.json", "train-characters.txt"
LOOKED = "looked.json"
NOT_OF_TEXTS = {"corpus", "mix", "tokenizer", "pack", "kind", "loss_on", "too_long", "special_tokens"}
"""The keys of `data` that do not change the scan of texts."""


@dataclass(frozen=True)
class ScanSummary:
    """The results of a scan in plain numbers, as the cache keeps them."""

    files: tuple[ScannedFile, ...]
    """The files that were read; with `data.val` those of the validation corpus come first."""
    looked_ns: int
    """The time at which the versions of the files were read, in nanoseconds since 1970."""
    train: SplitStatistics
    val: SplitStatistics
    unseen_characters: int
    """The number of distinct characters that only the validation split has."""
    duplicates: int
    duplicate_bytes: int
    blank: int
    """The number of documents dropped because they are empty or white space."""
    overlap: int
    """The number of documents dropped from training because they are in the corpus `data.val` too."""
    overlap_bytes: int
    grouped: int
    """The number of documents kept though an earlier one is equal or nearly so; they are in the same split as that."""
    cut_at: int
    split_rule: str
    """The rule by which the validation split was chosen, in words."""
    fingerprint: str
    """A hash of the texts of both splits in order, whatever the files' names and times."""
    refused: tuple[LeftOut, ...]
    """The files of folders that could not be read, and are not in `files`."""
    replaced: int
    """The number of U+FFFD characters that replaced undecodable bytes (`data.encoding_errors = "replace"`)."""
    separator_warning: str
    """The warning about `data.document_separator`; empty if there is none."""

    @classmethod
    def fields_of(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the fields whose `values` were read back from JSON."""
        splits = {name: SplitStatistics(**values[name]) for name in ("train", "val")}
        files = tuple(ScannedFile(*file) for file in values["files"])
        return values | splits | {"files": files, "refused": tuple(LeftOut(*one) for one in values["refused"])}


@dataclass(frozen=True)
class Scan(ScanSummary):
    """A corpus that has been read and split."""

    config: DataConfig
    passed_over: tuple[LeftOut, ...]
    """The files of folders that are not to be read, by their names."""

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """All files of folders that are not in the corpus."""
        return self.refused + self.passed_over

    def report(self) -> dict[str, Any]:
        """Return a report of the documents that were kept, dropped and split, as JSON can write it."""
        dropped = ("duplicates", "duplicate_bytes", "blank", "overlap", "overlap_bytes")
        return {
            "files": len(self.files),
            "train": asdict(self.train),
            "val": asdict(self.val),
            "left_out": left_out_report(self.left_out),
            "dropped": {name: getattr(self, name) for name in dropped},
            "replaced_characters": self.replaced,
            "deduplicate": self.config.deduplicate,
            "grouped": self.grouped,
            "split_rule": self.split_rule,
            "val_fraction": self.val.bytes / (self.train.bytes + self.val.bytes),
            "fingerprint": self.fingerprint,
        }


@dataclass(frozen=True)
class EncodedScan(Scan):
    """A scan of a corpus that comes as tokens, or becomes tokens as it is read."""

    tokenizer: Tokenizer
    directory: Path
    """The directory in the cache that holds both splits as token shards."""
    from_cache: bool


@dataclass(frozen=True)
class CorpusScan(Scan):
    """A scan of texts."""

    records: np.ndarray
    assignment: np.ndarray
    entry: Path
    """The directory in the cache that holds the scan."""
    sections: tuple[Section, ...]

    @property
    def reader(self) -> SplitReader:
        """A reader of all kept documents."""
        sections = tuple((section, self.files[section.number]) for section in self.sections)
        return SplitReader(sections, self.config, self.entry, self.cut_at)

    def say_notices(self) -> None:
        """Say which files were left out, and warn of faults that a reader of the figures should know."""
        say_left_out(self.left_out)
        warn_of_unused(self.config.exclude, self.left_out)
        warn_of_replaced(self.replaced, self.train.characters + self.val.characters)
        if self.separator_warning:
            say(self.separator_warning)

    def train_texts(self) -> Iterator[str]:
        """Yield the texts of the training part afresh, in pieces of bounded size.

        Raises:
            DataError: A file has changed.
        """
        return (piece.text for piece in self.pieces((TRAIN, CUT)) if not piece.is_val)

    def val_texts(self) -> Iterator[str]:
        """Yield the texts of the validation part afresh, as `train_texts`."""
        return (piece.text for piece in self.pieces((VAL, CUT)) if piece.is_val)

    def pieces(self, kinds: tuple[int, ...] = KEPT) -> Iterator[SplitPiece]:
        """Yield both splits afresh in one reading of the sections that hold a document of `kinds`."""
        return self.reader.pieces(kinds)

    def jobs(self, section_bytes: int, folder: Path) -> list[Job]:
        """Return the jobs of a stage that reads the corpus in parts, whose results are kept in `folder`."""
        return split_jobs(self.reader, section_bytes, folder)

    def train_characters(self) -> str:
        """Return the distinct characters of the training text."""
        return read_regular(self.entry / CHARACTERS, HUGE).decode()


class FilesToScan(NamedTuple):
    """The files of a corpus before they are read; the first `val_files` are those of the corpus `data.val`."""

    files: list[ScannedFile]
    val_files: int
    looked_ns: int
    """The time at which the versions of the files were read, in nanoseconds since 1970."""


def scan_texts(sources: Sequence[str], workspace: Workspace) -> CorpusScan:
    """Read and split a corpus of texts, or take the result from the cache if no file has changed since.

    The finished parts of a scan of a large corpus that was stopped are used.

    Raises:
        DataError: A source is missing, is no text, or is too small to be split.
        StorageError: A file cannot be read, or the cache cannot be written.
        OutOfMemoryError: A process was killed.
    """
    config, cache_dir = workspace.config, workspace.cache_dir
    if config.deduplicate == "near":
        require_rensa()
    looked_ns = time.time_ns()
    val = find_files([config.val] if config.val is not None else [], config, cache_dir)
    corpus = find_files(sources, config, cache_dir)
    if not corpus.files:
        raise DataError("no corpus is named", "name a text file, a directory, hf:NAME or python:stdlib")
    files = look_at([*val.files, *corpus.files])
    settings = config.model_dump(mode="json", exclude=NOT_OF_TEXTS | (set() if config.fields.named else {"fields"}))
    settings["chat_template"] = read_template(config.chat_template)  # a file's content may change
    entry = cache_dir / "scans" / cache_key(files, len(val.files), settings, workspace.seed)
    with only_writer(entry):
        if not is_current(entry, files):
            with unfinished(entry) as work, new_entry(entry) as folder:
                looked_ns = first_look(work, files, looked_ns)
                write_scan(folder, work, FilesToScan(files, len(val.files), looked_ns), workspace)
                require_same(files)
        scan = open_scan(entry, config, (*val.left_out, *corpus.left_out))
    scan.say_notices()
    return scan


@contextmanager
def discarded_if_changed(*scans: CorpusScan) -> Iterator[None]:
    """Delete the scans if a file turns out to have changed, so that the next command reads the corpus again."""
    try:
        yield
    except FileChanged:
        for scan in scans:
            shutil.rmtree(scan.entry, ignore_errors=True)
        raise


def is_current(entry: Path, files: list[ScannedFile]) -> bool:
    """Return whether the cache holds a whole scan that is recent enough to have seen the files' last change."""
    return is_whole(entry) and is_settled(files, strict_json.parse(read_regular(entry / SCAN, HUGE))["looked_ns"])


def first_look(work: Path, files: Sequence[ScannedFile], looked_ns: int) -> int:
    """Return the time at which the files of an unfinished scan in `work` were looked at; of a new scan `looked_ns`.

    A scan that began too soon after a change of the files is deleted.
    """
    if not work.is_dir():
        return looked_ns
    path = work / LOOKED
    found = load_with_checksum(read_regular(path, HUGE)) if path.is_file() else None
    if found is None:
        say(f"warning: {path} is missing or damaged; the finished parts are made again")
    elif is_settled(files, found["looked_ns"]):
        return int(found["looked_ns"])
    shutil.rmtree(work)
    return looked_ns


def write_scan(folder: Path, work: Path, corpus: FilesToScan, workspace: Workspace) -> None:
    """Read the corpus twice, to decide on every document and to count both splits, and write the scan to `folder`.

    Finished parts are kept in `work`.
    """
    config, size = workspace.config, workspace.workers.section_bytes
    cuts = [cut_file(number, file.source, file.size, config, size) for number, file in enumerate(corpus.files)]
    found = [(section, corpus.files[section.number]) for section in itertools.chain(*cuts)]
    jobs = index_jobs(found, config, size, work / f"note-{size}")
    if len(jobs) > 1:
        write_atomic(work / LOOKED, dump_with_checksum({"looked_ns": corpus.looked_ns}))
    files, numbers, sections, refused, replaced = index_documents(
        folder / DOCUMENTS, corpus.files, jobs, workspace.workers
    )
    if not files:
        raise nothing_readable_error(refused)
    if not any(file.documents for file in files):
        raise holds_no_text(files)
    records = np.memmap(folder / DOCUMENTS, dtype=RECORD, mode="r")
    if not any(some["characters"].any() for _, some in stretches(records)):
        raise holds_no_text(files)
    assignment = new_array(folder / ASSIGNMENT, np.dtype(np.uint8), records.shape)
    own_val = sum(file.documents for file, number in zip(files, numbers, strict=True) if number < corpus.val_files)
    reader = SplitReader(tuple((section, files[section.number]) for section in sections), config, folder, cut_at=0)
    groups = find_groups(records, split_jobs(reader, size, work / f"near-{size}"), folder, workspace)
    split = split_documents(records, own_val, config, workspace.seed, assignment, groups)
    grouped = count_grouped(assignment, groups)
    groups.remove_files()
    reader = replace(reader, cut_at=split.cut_at)
    counts = count_splits(split_jobs(reader, size, work / f"count-{size}"), workspace.workers)
    summary = ScanSummary(
        files=tuple(files),
        looked_ns=corpus.looked_ns,
        train=counts.of(0),
        val=counts.of(1),
        unseen_characters=int((counts.seen[1] & ~counts.seen[0]).sum()),
        **dropped(records, assignment),
        grouped=grouped,
        cut_at=split.cut_at,
        split_rule=split.rule,
        fingerprint=text_fingerprint(records, split),
        refused=tuple(refused),
        replaced=replaced,
        separator_warning=separator_warning(files, config),
    )
    write_file(folder / CHARACTERS, counts.characters_of(0).encode())
    if any(section.stop is not None for section in sections):
        write_file(folder / SECTIONS, strict_json.dumps(sections))
    write_file(folder / SCAN, strict_json.dumps(asdict(summary)))


def count_splits(jobs: list[Job], workers: WorkerConfig) -> Counts:
    """Count both splits."""
    counts = Counts()
    if len(jobs) == 1:
        return counts.add(jobs[0].reader.pieces())
    with Progress("count", len(jobs), unit="parts") as progress:
        for job, result in zip(jobs, in_order(count, jobs, workers.processes), strict=True):
            counts.merge(result, job.folder)
            progress.update()
    return counts


def dropped(records: np.ndarray, assignment: np.ndarray) -> dict[str, int]:
    """Return the fields of `ScanSummary` about the documents that are in neither split."""
    numbers, sizes = np.zeros((2, CUT + 1), dtype=np.int64)
    for _, some, kinds in stretches(records, assignment):
        numbers += np.bincount(kinds, minlength=CUT + 1)
        sizes += np.bincount(kinds, some["bytes"], CUT + 1).astype(np.int64)
    return {
        "duplicates": int(numbers[DUPLICATE]),
        "duplicate_bytes": int(sizes[DUPLICATE]),
        "blank": int(numbers[BLANK]),
        "overlap": int(numbers[OVERLAP]),
        "overlap_bytes": int(sizes[OVERLAP]),
    }


def find_groups(records: np.ndarray, jobs: list[Job], folder: Path, workspace: Workspace) -> Groups:
    """Return the groups of documents that must be in one split, by `data.deduplicate`."""
    match workspace.config.deduplicate:
        case "exact":
            return Groups(folder)
        case "none":
            return LinkedGroups(folder, len(records), later_occurrences(records, folder), keeps_duplicates=True)
        case "near":
            pairs = near_pairs(jobs, workspace.workers, folder)
            return LinkedGroups(folder, len(records), pairs, keeps_duplicates=False)


def count_grouped(assignment: np.ndarray, groups: Groups) -> int:
    """Return the number of kept documents that are not the first of their group."""
    count = 0
    for start, kinds in stretches(assignment):
        kept = start + np.flatnonzero(np.isin(kinds, (TRAIN, VAL, CUT)))
        count += int((groups.firsts(kept) != kept).sum())
    return count


def holds_no_text(files: list[ScannedFile]) -> DataError:
    """Return the error for files without text."""
    names = files[0].name if len(files) == 1 else f"none of the {len(files):,} files of the corpus"
    return DataError(f"{names} holds {'no' if len(files) == 1 else 'any'} text", "name a file that does")


def open_scan(entry: Path, config: DataConfig, passed_over: tuple[LeftOut, ...]) -> CorpusScan:
    """Open a scan in the cache.

    Raises:
        DataError: A file of it is damaged.
    """
    require_whole(entry)
    fields = ScanSummary.fields_of(strict_json.parse(read_regular(entry / SCAN, HUGE).decode()))
    if (entry / SECTIONS).is_file():
        sections = [Section.of(section) for section in strict_json.parse(read_regular(entry / SECTIONS, HUGE).decode())]
    else:
        sections = [Section(number, documents=file.documents) for number, file in enumerate(fields["files"])]
    return CorpusScan(
        **fields,
        config=config,
        passed_over=passed_over,
        records=np.memmap(entry / DOCUMENTS, dtype=RECORD, mode="r"),
        assignment=np.memmap(entry / ASSIGNMENT, dtype=np.uint8, mode="r"),
        entry=entry,
        sections=tuple(placed(sections)),
    )


def text_fingerprint(records: np.ndarray, split: Split) -> str:
    """Return a hash of the digests of all kept documents and of the split that each is in."""
    digest = hashlib.sha256(str(split.cut_at).encode())
    for field in ("high", "low", None):
        for _, some, kinds in stretches(records, split.assignment):
            kept = np.isin(kinds, (TRAIN, VAL, CUT))
            digest.update(np.ascontiguousarray(kinds[kept] if field is None else some[field][kept]).data)
    return digest.hexdigest()
