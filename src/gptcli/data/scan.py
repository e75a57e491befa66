"""What a corpus holds: what is dropped, what is trained on, what is validated on.

A scan reads the corpus twice, once to decide on the split and once to count its parts, and keeps 33 bytes of each
document. The texts are read again as often as they are needed, always in bounded memory. Knows no token.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptcli.data.cache import cache_key, only_writer
from gptcli.data.chat import read_template
from gptcli.data.config import DataConfig
from gptcli.data.passes import ScannedFile, SplitPiece, look_at, note_documents, read_split
from gptcli.data.sources import find_files
from gptcli.data.split import BLANK, CUT, DUPLICATE, OVERLAP, RECORD, TRAIN, VAL, Split, split_documents
from gptcli.errors import DataError
from gptcli.storage import atomic_directory

RACY_NANOSECONDS = 2_000_000_000
"""A file changed so shortly before a scan may change again within its clock's tick: such a scan is not used again."""


@dataclass(frozen=True)
class SplitStatistics:
    """What one part of the split holds; a document that is cut between the parts counts in both. Sizes in UTF-8."""

    documents: int
    bytes: int
    characters: int
    distinct_characters: int


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
    cut_at: int
    split_rule: str
    """How the validation part was chosen, in words."""
    fingerprint: str
    """Hash of the texts of both parts in order, whatever the files' names and times."""


@dataclass(frozen=True)
class CorpusScan(Findings):
    """A corpus that has been read and split, and whose parts can be read again."""

    config: DataConfig
    records: np.ndarray
    assignment: np.ndarray

    def train_texts(self) -> Iterator[str]:
        """The training text afresh, in pieces of bounded size; raises DataError if a file has changed."""
        return (piece.text for piece in self.pieces((TRAIN, CUT)) if not piece.is_val)

    def val_texts(self) -> Iterator[str]:
        """The validation text afresh, in pieces of bounded size; raises DataError if a file has changed."""
        return (piece.text for piece in self.pieces((VAL, CUT)) if piece.is_val)

    def pieces(self, kinds: tuple[int, ...] = (TRAIN, VAL, CUT)) -> Iterator[SplitPiece]:
        """Both parts afresh in one reading of the files that hold a document of `kinds`."""
        split = Split(self.assignment, self.cut_at, self.split_rule)
        return read_split(self.files, self.config, self.records, split, kinds)

    def report(self) -> dict[str, Any]:
        """What was kept, dropped and split, as JSON can write it."""
        dropped = ("duplicates", "duplicate_bytes", "blank", "overlap", "overlap_bytes")
        return {
            "files": len(self.files),
            "train": asdict(self.train),
            "val": asdict(self.val),
            "dropped": {name: getattr(self, name) for name in dropped},
            "split_rule": self.split_rule,
            "val_fraction": self.val.bytes / (self.train.bytes + self.val.bytes),
            "unseen_characters": self.unseen_characters,
            "fingerprint": self.fingerprint,
        }


def scan_corpus(sources: Sequence[str], config: DataConfig, cache_dir: Path, seed: int = 0) -> CorpusScan:
    """Read and split a corpus, or take what was found from the cache when no file has changed since.

    Raises:
        DataError: a source is missing, is no text, or is too small to be split.
        StorageError: a file cannot be read, or the cache cannot be written.
    """
    looked_ns = time.time_ns()
    val_files = find_files([config.val], config.text_field, cache_dir) if config.val is not None else []
    corpus_files = find_files(sources, config.text_field, cache_dir)
    if not corpus_files:
        raise DataError("no corpus is named", "name a text file, a directory, hf:NAME or python:stdlib")
    files = [look_at(file) for file in [*val_files, *corpus_files]]
    settings = config.model_dump(mode="json", exclude={"corpus", "tokenizer", "pack"})
    settings["chat_template"] = read_template(config.chat_template)  # a file's content may change
    entry = cache_dir / "scans" / cache_key(files, len(val_files), settings, seed)
    with only_writer(entry):
        if not is_current(entry, files):
            with atomic_directory(entry) as folder:
                write_scan(folder, files, len(val_files), looked_ns, config, seed)
        return open_scan(entry, config)


def is_current(entry: Path, files: list[ScannedFile]) -> bool:
    """Whether the cache holds a scan that came long enough after the files' last change to have seen it."""
    if not (entry / "scan.json").exists():
        return False
    looked_ns = json.loads((entry / "scan.json").read_text(encoding="utf-8"))["looked_ns"]
    return looked_ns > max(file.mtime_ns for file in files) + RACY_NANOSECONDS


def write_scan(
    folder: Path, files: list[ScannedFile], val_files: int, looked_ns: int, config: DataConfig, seed: int
) -> None:
    """Read the corpus twice, to decide on every document and to count the parts, and write what was found."""
    files = note_documents(files, config, folder / "documents.bin")
    if not any(file.documents for file in files):
        raise holds_no_text(files)
    records = np.memmap(folder / "documents.bin", dtype=RECORD, mode="r")
    if not records["characters"].any():
        raise holds_no_text(files)
    split = split_documents(records, sum(file.documents for file in files[:val_files]), config, seed)
    train, val, unseen_characters = count_parts(read_split(tuple(files), config, records, split, (TRAIN, VAL, CUT)))
    sizes = {kind: records["bytes"][split.assignment == kind] for kind in (DUPLICATE, BLANK, OVERLAP)}
    findings = Findings(
        files=tuple(files),
        looked_ns=looked_ns,
        train=train,
        val=val,
        unseen_characters=unseen_characters,
        duplicates=len(sizes[DUPLICATE]),
        duplicate_bytes=int(sizes[DUPLICATE].sum()),
        blank=len(sizes[BLANK]),
        overlap=len(sizes[OVERLAP]),
        overlap_bytes=int(sizes[OVERLAP].sum()),
        cut_at=split.cut_at,
        split_rule=split.rule,
        fingerprint=text_fingerprint(records, split),
    )
    split.assignment.tofile(folder / "assignment.bin")
    (folder / "scan.json").write_text(json.dumps(asdict(findings)), encoding="utf-8")


def holds_no_text(files: list[ScannedFile]) -> DataError:
    names = files[0].name if len(files) == 1 else f"none of the {len(files):,} files of the corpus"
    return DataError(f"{names} holds {'no' if len(files) == 1 else 'any'} text", "name a file that does")


def open_scan(entry: Path, config: DataConfig) -> CorpusScan:
    """A scan from the cache."""
    values = json.loads((entry / "scan.json").read_text(encoding="utf-8"))
    values["files"] = tuple(ScannedFile(*file) for file in values["files"])
    values["train"], values["val"] = SplitStatistics(**values["train"]), SplitStatistics(**values["val"])
    records = np.memmap(entry / "documents.bin", dtype=RECORD, mode="r")
    assignment = np.memmap(entry / "assignment.bin", dtype=np.uint8, mode="r")
    return CorpusScan(**values, config=config, records=records, assignment=assignment)


def count_parts(pieces: Iterator[SplitPiece]) -> tuple[SplitStatistics, SplitStatistics, int]:
    """Statistics of the training and the validation part, and the number of characters that only the latter has."""
    documents, sizes, characters = [0, 0], [0, 0], [0, 0]
    seen = np.zeros((2, 0x110000), dtype=bool)  # by part, by code point
    for text, size, is_val, starts in pieces:
        documents[is_val] += starts
        sizes[is_val] += size
        characters[is_val] += len(text)
        seen[int(is_val), np.frombuffer(text.encode("utf-32-le"), dtype="<u4")] = True
    train, val = (
        SplitStatistics(documents[part], sizes[part], characters[part], int(seen[part].sum())) for part in range(2)
    )
    return train, val, int((seen[1] & ~seen[0]).sum())


def text_fingerprint(records: np.ndarray, split: Split) -> str:
    """Hash of the digests of all kept documents and of the part each is in."""
    kept = np.isin(split.assignment, (TRAIN, VAL, CUT))
    digest = hashlib.sha256(str(split.cut_at).encode())
    for values in (records["high"][kept], records["low"][kept], split.assignment[kept]):
        digest.update(np.ascontiguousarray(values))
    return digest.hexdigest()
