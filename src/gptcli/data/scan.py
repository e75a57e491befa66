"""What a corpus holds: what is dropped, what is trained on, what is validated on.

A scan reads the corpus twice, once to decide on the split and once to count its parts, and keeps 33 bytes of each
document, on disk. The texts are read again as often as they are needed, always in bounded memory; a large corpus is
read by several processes, and one that was stopped goes on. Knows no token.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptcli import strict_json
from gptcli.console import Progress, say
from gptcli.data.arrays import new_array, stretches
from gptcli.data.cache import FileChanged, cache_key, is_whole, new_entry, only_writer, require_whole, unfinished
from gptcli.data.chat import read_template
from gptcli.data.config import DataConfig
from gptcli.data.corpus import nothing_readable
from gptcli.data.crew import ALL_CORES, Means, in_order
from gptcli.data.duplicates import later_occurrences
from gptcli.data.groups import Groups, LinkedGroups
from gptcli.data.left_out import LeftOut, left_out_report, say_left_out, warn_of_replaced, warn_of_unused
from gptcli.data.near import near_pairs, require_rensa
from gptcli.data.noting import note_documents, placed
from gptcli.data.passes import ScannedFile, SplitPiece
from gptcli.data.sections import Section, cut_file, group
from gptcli.data.separator_check import separator_warning
from gptcli.data.sources import find_files
from gptcli.data.split import BLANK, CUT, DUPLICATE, OVERLAP, RECORD, TRAIN, VAL, Split, split_documents
from gptcli.data.stages import ASSIGNMENT, DOCUMENTS, Counts, Job, SplitStatistics, count
from gptcli.data.versions import is_settled, look_at, require_same
from gptcli.errors import DataError
from gptcli.manifest import sealed, unsealed
from gptcli.storage import HUGE, read_regular, write_atomic, write_file

SCAN, SECTIONS, CHARACTERS = "scan.json", "sections.json", "train-characters.txt"
LOOKED = "looked.json"


@dataclass(frozen=True)
class Findings:
    """What a scan found, in plain numbers, as the cache keeps it."""

    files: tuple[ScannedFile, ...]
    """With `data.val` the validation corpus first."""
    looked_ns: int
    """When the files' times were read, in nanoseconds since 1970."""
    train: SplitStatistics
    val: SplitStatistics
    unseen_characters: int
    """Distinct characters that only the validation part has."""
    duplicates: int
    duplicate_bytes: int
    blank: int
    """Documents that are empty or white space, dropped."""
    overlap: int
    """Documents dropped from training because they are in the corpus `data.val` too."""
    overlap_bytes: int
    grouped: int
    """Documents that are kept though an earlier one is equal or nearly so, on the side of the split where that is."""
    cut_at: int
    split_rule: str
    """How the validation part was chosen, in words."""
    fingerprint: str
    """Hash of the texts of both parts in order, whatever the files' names and times."""
    refused: tuple[LeftOut, ...]
    """Files of folders that could not be read, and are no part of `files`."""
    replaced: int
    """The number of U+FFFD characters that replaced undecodable bytes (`data.encoding_errors = "replace"`)."""
    separator_warning: str
    """The warning about `data.document_separator`; empty if there is none."""


@dataclass(frozen=True)
class CorpusScan(Findings):
    """A corpus that has been read and split, and whose parts can be read again."""

    config: DataConfig
    records: np.ndarray
    assignment: np.ndarray
    entry: Path
    """The directory in the cache that holds it."""
    sections: tuple[Section, ...]
    passed_over: tuple[LeftOut, ...]
    """Files of folders that are not to be read, by their names."""

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """All files of folders that are no part of the corpus."""
        return self.refused + self.passed_over

    def say_notices(self) -> None:
        """Say what was left out, and warn of what a reader of the figures should know."""
        say_left_out(self.left_out)
        warn_of_unused(self.config.exclude, self.left_out)
        warn_of_replaced(self.replaced, self.train.characters + self.val.characters)
        if self.separator_warning:
            say(self.separator_warning)

    def train_texts(self) -> Iterator[str]:
        """The training text afresh, in pieces of bounded size; raises DataError if a file has changed."""
        return (piece.text for piece in self.pieces((TRAIN, CUT)) if not piece.is_val)

    def val_texts(self) -> Iterator[str]:
        """The validation text afresh, in pieces of bounded size; raises DataError if a file has changed."""
        return (piece.text for piece in self.pieces((VAL, CUT)) if piece.is_val)

    def pieces(self, kinds: tuple[int, ...] = (TRAIN, VAL, CUT)) -> Iterator[SplitPiece]:
        """Both parts afresh in one reading of the files that hold a document of `kinds`."""
        files = tuple(self.files[section.number] for section in self.sections)
        return Job(self.sections, files, self.config, 0, Path(), self.entry, self.cut_at).pieces(kinds)

    def jobs(self, section_bytes: int, folder: Path) -> list[Job]:
        """The corpus in parts; what comes of the parts is kept in `folder`."""
        return divide(self.files, self.sections, self.config, section_bytes, folder, self.entry, self.cut_at)

    def train_characters(self) -> str | None:
        """The distinct characters of the training text, where the scan has kept them."""
        path = self.entry / CHARACTERS
        return read_regular(path, HUGE).decode() if path.is_file() else None

    def report(self) -> dict[str, Any]:
        """What was kept, dropped and split, as JSON can write it."""
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


def scan_corpus(
    sources: Sequence[str], config: DataConfig, cache_dir: Path, seed: int = 0, means: Means = ALL_CORES
) -> CorpusScan:
    """Read and split a corpus, or take what was found from the cache when no file has changed since.

    What a command that was stopped had found in parts of a large corpus is not sought again.

    Raises:
        DataError: a source is missing, is no text, or is too small to be split.
        StorageError: a file cannot be read, or the cache cannot be written.
        OutOfMemoryError: a process was killed.
    """
    if config.deduplicate == "near":
        require_rensa()
    looked_ns = time.time_ns()
    val = find_files([config.val] if config.val is not None else [], config, cache_dir)
    corpus = find_files(sources, config, cache_dir)
    if not corpus.files:
        raise DataError("no corpus is named", "name a text file, a directory, hf:NAME or python:stdlib")
    files = look_at([*val.files, *corpus.files])
    settings = config.model_dump(mode="json", exclude={"corpus", "mix", "tokenizer", "pack"})
    settings["chat_template"] = read_template(config.chat_template)  # a file's content may change
    entry = cache_dir / "scans" / cache_key(files, len(val.files), settings, seed)
    with only_writer(entry):
        if not is_current(entry, files):
            with unfinished(entry) as work, new_entry(entry) as folder:
                looked_ns = first_look(work, files, looked_ns)
                write_scan(folder, work, files, len(val.files), looked_ns, config, seed, means)
                require_same(files)
        scan = open_scan(entry, config, (*val.left_out, *corpus.left_out))
    scan.say_notices()
    return scan


@contextmanager
def forgotten_if_changed(*scans: CorpusScan) -> Iterator[None]:
    """Delete the scans if a file has changed since, so that the next command reads the corpus again."""
    try:
        yield
    except FileChanged:
        for scan in scans:
            shutil.rmtree(scan.entry, ignore_errors=True)
        raise


def is_current(entry: Path, files: list[ScannedFile]) -> bool:
    """Whether the cache holds a whole scan that came long enough after the files' last change to have seen it."""
    return is_whole(entry) and is_settled(files, strict_json.parse(read_regular(entry / SCAN, HUGE))["looked_ns"])


def divide(
    files: Sequence[ScannedFile],
    sections: Iterable[Section],
    config: DataConfig,
    section_bytes: int,
    folder: Path,
    scan: Path = Path(),
    cut_at: int = 0,
) -> list[Job]:
    """Sections in jobs of about `section_bytes` of text."""
    known = [(file.source, file.size) for file in files]
    return [
        Job(tuple(some), tuple(files[s.number] for s in some), config, section_bytes, folder / f"{n:05d}", scan, cut_at)
        for n, some in enumerate(group(sections, known, section_bytes))
    ]


def first_look(work: Path, files: Sequence[ScannedFile], looked_ns: int) -> int:
    """When the files were first looked at, of a scan that goes on with what `work` holds; `looked_ns` of a new one.

    Nothing is kept of a scan that came too soon after a change of the files.
    """
    if not work.is_dir():
        return looked_ns
    path = work / LOOKED
    found = unsealed(read_regular(path, HUGE)) if path.is_file() else None
    if found is None:
        say(f"warning: {path} is missing or damaged; the finished parts are made again")
    elif is_settled(files, found["looked_ns"]):
        return found["looked_ns"]
    shutil.rmtree(work)
    return looked_ns


def write_scan(
    folder: Path,
    work: Path,
    files: list[ScannedFile],
    val_files: int,
    looked_ns: int,
    config: DataConfig,
    seed: int,
    means: Means,
) -> None:
    """Read the corpus twice, to decide on every document and to count the parts, and write what was found."""
    size = means.section_bytes
    cuts = [cut_file(number, file.source, file.size, config, size) for number, file in enumerate(files)]
    jobs = divide(files, itertools.chain(*cuts), config, size, work / f"note-{size}")
    if len(jobs) > 1:
        write_atomic(work / LOOKED, sealed({"looked_ns": looked_ns}))
    files, numbers, sections, refused, replaced = note_documents(folder / DOCUMENTS, files, jobs, means)
    if not files:
        raise nothing_readable(refused)
    if not any(file.documents for file in files):
        raise holds_no_text(files)
    records = np.memmap(folder / DOCUMENTS, dtype=RECORD, mode="r")
    if not any(some["characters"].any() for _, some in stretches(records)):
        raise holds_no_text(files)
    assignment = new_array(folder / ASSIGNMENT, np.dtype(np.uint8), records.shape)
    own_val = sum(file.documents for file, number in zip(files, numbers, strict=True) if number < val_files)
    groups = find_groups(records, divide(files, sections, config, size, work / f"near-{size}", folder), folder, means)
    split = split_documents(records, own_val, config, seed, assignment, groups)
    grouped = count_grouped(assignment, groups)
    groups.remove_files()
    counts = count_parts(divide(files, sections, config, size, work / f"count-{size}", folder, split.cut_at), means)
    findings = Findings(
        files=tuple(files),
        looked_ns=looked_ns,
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
    write_file(folder / SCAN, strict_json.dumps(asdict(findings)))


def count_parts(jobs: list[Job], means: Means) -> Counts:
    """What both parts of the split hold."""
    counts = Counts()
    if len(jobs) == 1:
        return counts.add(jobs[0].pieces())
    with Progress("count", len(jobs), unit="parts") as progress:
        for job, result in zip(jobs, in_order(count, jobs, means.processes), strict=True):
            counts.merge(result, job.folder)
            progress.update()
    return counts


def dropped(records: np.ndarray, assignment: np.ndarray) -> dict[str, int]:
    """What `Findings` says of the documents that are in neither part."""
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


def find_groups(records: np.ndarray, jobs: list[Job], folder: Path, means: Means) -> Groups:
    """The groups of documents that must lie on one side of the split, by `data.deduplicate`."""
    match jobs[0].config.deduplicate:
        case "exact":
            return Groups(folder)
        case "none":
            return LinkedGroups(folder, len(records), later_occurrences(records, folder), keeps_duplicates=True)
        case "near":
            return LinkedGroups(folder, len(records), near_pairs(jobs, means, folder), keeps_duplicates=False)


def count_grouped(assignment: np.ndarray, groups: Groups) -> int:
    """The number of kept documents that are not the first of their group."""
    count = 0
    for start, kinds in stretches(assignment):
        kept = start + np.flatnonzero(np.isin(kinds, (TRAIN, VAL, CUT)))
        count += int((groups.firsts(kept) != kept).sum())
    return count


def holds_no_text(files: list[ScannedFile]) -> DataError:
    names = files[0].name if len(files) == 1 else f"none of the {len(files):,} files of the corpus"
    return DataError(f"{names} holds {'no' if len(files) == 1 else 'any'} text", "name a file that does")


def open_scan(entry: Path, config: DataConfig, passed_over: tuple[LeftOut, ...]) -> CorpusScan:
    """A scan from the cache.

    Raises:
        DataError: a file of it is damaged.
    """
    require_whole(entry)
    values = strict_json.parse(read_regular(entry / SCAN, HUGE).decode())
    values["files"] = tuple(ScannedFile(*file) for file in values["files"])
    values["refused"] = tuple(LeftOut(*one) for one in values["refused"])
    values["train"], values["val"] = SplitStatistics(**values["train"]), SplitStatistics(**values["val"])
    if (entry / SECTIONS).is_file():
        sections = [Section(*section) for section in strict_json.parse(read_regular(entry / SECTIONS, HUGE).decode())]
    else:
        sections = [Section(number, documents=file.documents) for number, file in enumerate(values["files"])]
    records = np.memmap(entry / DOCUMENTS, dtype=RECORD, mode="r")
    assignment = np.memmap(entry / ASSIGNMENT, dtype=np.uint8, mode="r")
    return CorpusScan(
        **values,
        config=config,
        records=records,
        assignment=assignment,
        entry=entry,
        sections=tuple(placed(sections)),
        passed_over=passed_over,
    )


def text_fingerprint(records: np.ndarray, split: Split) -> str:
    """Hash of the digests of all kept documents and of the part each is in."""
    digest = hashlib.sha256(str(split.cut_at).encode())
    for field in ("high", "low", None):
        for _, some, kinds in stretches(records, split.assignment):
            kept = np.isin(kinds, (TRAIN, VAL, CUT))
            digest.update(np.ascontiguousarray(kinds[kept] if field is None else some[field][kept]))
    return digest.hexdigest()
