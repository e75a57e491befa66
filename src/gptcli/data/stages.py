"""What each process does to its part of a corpus: note the documents, count them, draw a sample, encode.

A part's result is kept in a folder of its own, which is written and verified like an entry of the cache; a part whose
result is there and whole is not done again. Whatever the number of processes, the parts and their results are the same.
Knows no order of parts.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gptcli import strict_json
from gptcli.data.cache import is_whole, new_entry, require_whole
from gptcli.data.config import DataConfig
from gptcli.data.crew import give_back_freed, resident_bytes
from gptcli.data.passes import NotedSection, ScannedFile, SplitPiece, note_section, read_section
from gptcli.data.sample import drawn_pieces
from gptcli.data.sections import Section
from gptcli.data.shards import ShardWriter
from gptcli.data.sketch import SKETCH, SketchBuilder
from gptcli.data.split import CUT, RECORD, TRAIN, VAL
from gptcli.manifest import MANIFEST_NAME
from gptcli.storage import HUGE, create_file, create_text_file, open_regular, read_regular, write_file
from gptcli.tokenizer.lost_text import LostTextMeter
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer

RESULT = "result.json"
DOCUMENTS, ASSIGNMENT, SEEN, TEXTS = "documents.bin", "assignment.bin", "seen.bin", "texts.jsonl"
BATCH_CHARACTERS = 1 << 20
"""Text that is encoded at once: its tokens are written before more is read."""
CODE_POINTS = 0x110000
SLACK_BYTES = 1 << 25

Told = Callable[[int], object]
"""Is told of bytes that have been read."""


@dataclass(frozen=True)
class Job:
    """A part of a corpus: neighbouring sections, and the folder for what comes of them."""

    sections: tuple[Section, ...]
    files: tuple[ScannedFile, ...]
    """The file of each section."""
    config: DataConfig
    section_bytes: int
    folder: Path
    scan: Path = Path()
    """The directory that says what becomes of each document, once that is decided."""
    cut_at: int = 0

    def pieces(self, kinds: tuple[int, ...] = (TRAIN, VAL, CUT)) -> Iterator[SplitPiece]:
        """The kept documents in order, in pieces; sections without a document of `kinds` are passed over."""
        self.require_scan()
        for section, file in zip(self.sections, self.files, strict=True):
            yield from self.read(section, file, kinds)

    def require_scan(self) -> None:
        """Raise a DataError if the scan is damaged; one that is still being made has no manifest yet."""
        if (self.scan / MANIFEST_NAME).exists():
            require_whole(self.scan)

    def read(self, section: Section, file: ScannedFile, kinds: tuple[int, ...]) -> Iterator[SplitPiece]:
        assignment = self.assignment(section)
        if np.isin(assignment, kinds).any():
            yield from read_section(section, file, self.config, self.records(section), assignment, self.cut_at)

    def records(self, section: Section) -> np.ndarray:
        return self.noted(section, DOCUMENTS, RECORD)

    def assignment(self, section: Section) -> np.ndarray:
        return self.noted(section, ASSIGNMENT, np.dtype(np.uint8))

    def noted(self, section: Section, name: str, dtype: np.dtype) -> np.ndarray:
        """What is noted of the documents of a section."""
        count, first = section.documents, section.first
        if not count:
            return np.empty(0, dtype)
        return np.memmap(self.scan / name, dtype, mode="r", offset=first * dtype.itemsize, shape=(count,))


def keep(folder: Path, make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """What `make` returns after it has left its files in a folder; not called where that is done and whole."""
    if not is_whole(folder):
        with new_entry(folder) as temporary:
            write_file(temporary / RESULT, strict_json.dumps(make(temporary)))
    return strict_json.parse(read_regular(folder / RESULT, HUGE))


def note(job: Job) -> dict[str, Any]:
    """Notes of all documents in `documents.bin`; returns what was found of each section."""
    return keep(job.folder, lambda folder: {"noted": note_into(folder / DOCUMENTS, job, lambda _: None)})


def note_into(path: Path, job: Job, told: Told) -> list[NotedSection]:
    with create_file(path) as out:
        return [
            note_section(section, file, job.config, job.section_bytes, out, told)
            for section, file in zip(job.sections, job.files, strict=True)
        ]


@dataclass(frozen=True)
class SplitStatistics:
    """What one part of the split holds; a document that is cut between the parts counts in both. Sizes in UTF-8."""

    documents: int
    bytes: int
    characters: int
    distinct_characters: int


class Counts:
    """What both parts of a split hold, counted from their pieces; each list and row is of the training part first."""

    def __init__(self) -> None:
        self.documents, self.bytes, self.characters = [0, 0], [0, 0], [0, 0]
        self.seen = np.zeros((2, CODE_POINTS), dtype=bool)

    def add(self, pieces: Iterable[SplitPiece]) -> Counts:
        for batch in batches(pieces):
            texts: tuple[list[str], list[str]] = ([], [])
            for text, size, is_val, starts in batch:
                self.documents[is_val] += starts
                self.bytes[is_val] += size
                texts[is_val].append(text)
            for seen, part, strings in zip(self.seen, range(2), texts, strict=True):
                text = "".join(strings)
                self.characters[part] += len(text)
                codes = (text.encode(), "u1") if text.isascii() else (text.encode("utf-32-le"), "<u4")
                seen[np.frombuffer(*codes)] = True
        return self

    def merge(self, result: dict[str, Any], folder: Path) -> None:
        """Add what `count` left of one part of the corpus."""
        for name in ("documents", "bytes", "characters"):
            setattr(self, name, [mine + more for mine, more in zip(getattr(self, name), result[name], strict=True)])
        bits = np.fromfile(folder / SEEN, dtype=np.uint8)
        self.seen |= np.unpackbits(bits, count=2 * CODE_POINTS).view(bool).reshape(2, CODE_POINTS)

    def of(self, part: int) -> SplitStatistics:
        """The figures of a part."""
        distinct = int(self.seen[part].sum())
        return SplitStatistics(self.documents[part], self.bytes[part], self.characters[part], distinct)

    def characters_of(self, part: int) -> str:
        """The distinct characters of a part, in the order of their code points."""
        return np.flatnonzero(self.seen[part]).astype("<u4").tobytes().decode("utf-32-le")


def count(job: Job) -> dict[str, Any]:
    """What both parts hold, in numbers, and in `seen.bin` a bit for each part and code point."""

    def make(folder: Path) -> dict[str, Any]:
        counts = Counts().add(job.pieces())
        write_file(folder / SEEN, np.packbits(counts.seen))
        return {"documents": counts.documents, "bytes": counts.bytes, "characters": counts.characters}

    return keep(job.folder, make)


def draw(task: tuple[Job, int]) -> dict[str, Any]:
    """The texts of the sample of so many buckets in `texts.jsonl`, one a line; returns how many they are."""
    job, drawn = task

    def make(folder: Path) -> dict[str, Any]:
        documents = size = 0
        with create_text_file(folder / TEXTS) as out:
            for piece in drawn_pieces(job, drawn):
                out.write(strict_json.dumps(piece.text) + "\n")
                documents += piece.starts
                size += piece.bytes
        return {"documents": documents, "bytes": size}

    return keep(job.folder, make)


def drawn_texts(job: Job) -> Iterator[str]:
    """The texts that `draw` has left."""
    with io.TextIOWrapper(open_regular(job.folder / TEXTS), encoding="utf-8") as file:
        for line in file:
            yield strict_json.parse(line)


def encode(task: tuple[Job, Path, int, int]) -> dict[str, Any]:
    """Token shards of both parts in `train` and `val`, and the sketch of the training part in `train-sketch`; returns
    what `encode_into` does.

    The path is that of the tokenizer; the numbers are the bytes of the whole training text, and the bytes that this
    process may come to take.
    """
    job, tokenizer, text_bytes, memory = task

    def make(folder: Path) -> dict[str, Any]:
        builder = SketchBuilder(text_bytes)
        result = encode_into(folder, job, loaded(tokenizer), builder, lambda _: None, memory)
        builder.merge().save(folder / SKETCH)
        return result

    return keep(job.folder, make)


@lru_cache(maxsize=1)
def loaded(path: Path) -> Tokenizer:
    return load_tokenizer(path)


def encode_into(
    folder: Path, job: Job, tokenizer: Tokenizer, sketch: SketchBuilder, told: Told, memory: int | None = None
) -> dict[str, Any]:
    """Encode both parts in one reading and sketch the training part.

    Returns of each part whether it begins within a document (`goes_on`), and what the tokenizer loses of it (`lost`).
    """
    vocabulary = (tokenizer.vocab_size, tokenizer.framing, tokenizer.fingerprint)
    goes_on: list[bool | None] = [None, None]
    meters = LostTextMeter(tokenizer), LostTextMeter(tokenizer)
    with ShardWriter(folder / "train", *vocabulary) as train, ShardWriter(folder / "val", *vocabulary) as val:
        for batch in batches(job.pieces()):
            encoded = tokenizer.encode_batch([piece.text for piece in batch])
            for part, writer in enumerate((train, val)):
                chosen = [(ids, piece) for ids, piece in zip(encoded, batch, strict=True) if piece.is_val == part]
                if chosen:
                    starts = [piece.starts for _, piece in chosen]
                    if goes_on[part] is None:
                        goes_on[part], starts[0] = not starts[0], True
                    writer.add_all([ids for ids, _ in chosen], [piece.bytes for _, piece in chosen], starts)
                for _, piece in chosen:
                    meters[part].add(piece.text, piece.bytes)
            sketch.add([piece.text for piece in batch if not piece.is_val])
            told(sum(piece.bytes for piece in batch))
            if memory is not None and resident_bytes() > memory:
                tokenizer.clear_cache()
                give_back_freed()
                memory = max(memory, resident_bytes() + SLACK_BYTES)
    return {"goes_on": [bool(value) for value in goes_on], "lost": [meter.found.as_json() for meter in meters]}


def batches(pieces: Iterable[SplitPiece]) -> Iterator[list[SplitPiece]]:
    """Pieces in lists of about BATCH_CHARACTERS characters."""
    batch: list[SplitPiece] = []
    characters = 0
    for piece in pieces:
        batch.append(piece)
        characters += len(piece.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
