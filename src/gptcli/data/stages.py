"""The stages of preparing a corpus, as each process does them for its part: index the documents, count, draw, encode.

The result of a stage for a part has a folder of its own, which is written and verified like an entry of the cache; a
part whose result is there and whole is not done again. The parts and their results do not depend on the number of
processes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptcli import strict_json
from gptcli.data.cache import is_whole, new_entry
from gptcli.data.config import DataConfig
from gptcli.data.sample import drawn_pieces
from gptcli.data.section_index import IndexedSection, OnProgress, SectionIndexer
from gptcli.data.sections import FileSection, group
from gptcli.data.shards import ShardWriter
from gptcli.data.sketch import SKETCH, SketchBuilder
from gptcli.data.split_reader import DOCUMENTS, SplitPiece, SplitReader
from gptcli.data.worker_pool import resident_bytes, return_freed_memory
from gptcli.storage import HUGE, create_file, create_text_file, open_regular, read_regular, write_file
from gptcli.tokenizer.lost_text import LostTextMeter
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer

RESULT, SEEN, TEXTS = "result.json", "seen.bin", "texts.jsonl"
BATCH_CHARACTERS = 1 << 20
"""The text that is encoded at once: its tokens are written before more is read."""
CODE_POINTS = 0x110000
SLACK_BYTES = 1 << 25


class IndexJob(NamedTuple):
    """A part of a corpus to index, and the folder for the result."""

    sections: tuple[FileSection, ...]
    config: DataConfig
    section_bytes: int
    folder: Path


class Job(NamedTuple):
    """A part of a split corpus, and the folder for the result of a stage."""

    reader: SplitReader
    folder: Path


def index_jobs(sections: Iterable[FileSection], config: DataConfig, section_bytes: int, folder: Path) -> list[IndexJob]:
    """Return the jobs that index `sections`, whose results are kept in `folder`."""
    parts = enumerate(group(sections, section_bytes))
    return [IndexJob(some, config, section_bytes, folder / f"{number:05d}") for number, some in parts]


def split_jobs(reader: SplitReader, section_bytes: int, folder: Path) -> list[Job]:
    """Return the jobs of a stage that reads a split corpus, whose results are kept in `folder`."""
    return [Job(part, folder / f"{number:05d}") for number, part in enumerate(reader.parts(section_bytes))]


def run_once(folder: Path, make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Return the result of `make`, which writes its files to `folder`, or an earlier result there that is whole."""
    if not is_whole(folder):
        with new_entry(folder) as temporary:
            write_file(temporary / RESULT, strict_json.dumps(make(temporary)))
    result: dict[str, Any] = strict_json.parse(read_regular(folder / RESULT, HUGE))
    return result


def index(job: IndexJob) -> dict[str, Any]:
    """Write the records of all documents to `documents.bin`, and return the results for the sections (`noted`)."""
    return run_once(job.folder, lambda folder: {"noted": index_into(folder / DOCUMENTS, job, lambda _: None)})


def index_into(path: Path, job: IndexJob, on_progress: OnProgress) -> list[IndexedSection]:
    """Write the records of all documents to `path`, and return the results for the sections."""
    with create_file(path) as out:
        indexer = SectionIndexer(job.config, job.section_bytes, out, on_progress)
        return [indexer.index(section, file) for section, file in job.sections]


@dataclass(frozen=True)
class SplitStatistics:
    """The sizes of one split, in UTF-8; a document that is cut between the splits counts in both."""

    documents: int
    bytes: int
    characters: int
    distinct_characters: int


class Counts:
    """The sizes of both splits, counted from their pieces; each list and row has the training split first."""

    def __init__(self) -> None:
        self.documents, self.bytes, self.characters = [0, 0], [0, 0], [0, 0]
        self.seen = np.zeros((2, CODE_POINTS), dtype=bool)

    def add(self, pieces: Iterable[SplitPiece]) -> Counts:
        """Count pieces, and return the object."""
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
        """Add the result of `count` for one part of the corpus."""
        for name in ("documents", "bytes", "characters"):
            setattr(self, name, [mine + more for mine, more in zip(getattr(self, name), result[name], strict=True)])
        bits = np.fromfile(folder / SEEN, dtype=np.uint8)
        self.seen |= np.unpackbits(bits, count=2 * CODE_POINTS).view(bool).reshape(2, CODE_POINTS)

    def of(self, part: int) -> SplitStatistics:
        """Return the sizes of one split."""
        distinct = int(self.seen[part].sum())
        return SplitStatistics(self.documents[part], self.bytes[part], self.characters[part], distinct)

    def characters_of(self, part: int) -> str:
        """Return the distinct characters of one split, in the order of their code points."""
        return np.flatnonzero(self.seen[part]).astype("<u4").tobytes().decode("utf-32-le")


def count(job: Job) -> dict[str, Any]:
    """Return the sizes of both splits, and write a bit for each split and code point to `seen.bin`."""

    def make(folder: Path) -> dict[str, Any]:
        counts = Counts().add(job.reader.pieces())
        write_file(folder / SEEN, np.packbits(counts.seen).tobytes())
        return {"documents": counts.documents, "bytes": counts.bytes, "characters": counts.characters}

    return run_once(job.folder, make)


def draw(task: tuple[Job, int]) -> dict[str, Any]:
    """Write the sample from the first buckets to `texts.jsonl`, a text per line, and return its documents and bytes."""
    job, drawn = task

    def make(folder: Path) -> dict[str, Any]:
        documents = size = 0
        with create_text_file(folder / TEXTS) as out:
            for piece in drawn_pieces(job.reader, drawn):
                out.write(strict_json.dumps(piece.text) + "\n")
                documents += piece.starts
                size += piece.bytes
        return {"documents": documents, "bytes": size}

    return run_once(job.folder, make)


def drawn_texts(job: Job) -> Iterator[str]:
    """Yield the texts that `draw` has written."""
    with io.TextIOWrapper(open_regular(job.folder / TEXTS), encoding="utf-8") as file:
        for line in file:
            yield strict_json.parse(line)


class EncodeTask(NamedTuple):
    """A part of a corpus to encode."""

    job: Job
    tokenizer: Path
    text_bytes: int
    """The size of the whole training text."""
    memory: int
    """The memory that the process may take."""


def encode(task: EncodeTask) -> dict[str, Any]:
    """Write token shards of both splits to `train` and `val`, and the sketch of the training split to `train-sketch`.

    Returns the result of `encode_into`.
    """

    def make(folder: Path) -> dict[str, Any]:
        builder = SketchBuilder(task.text_bytes)
        encoder = ShardEncoder(loaded(task.tokenizer), builder, lambda _: None, task.memory)
        result = encoder.encode_into(folder, task.job.reader.pieces())
        builder.merge().save(folder / SKETCH)
        return result

    return run_once(task.job.folder, make)


@lru_cache(maxsize=1)
def loaded(path: Path) -> Tokenizer:
    """Return the tokenizer of a directory, which this process loads once."""
    return load_tokenizer(path)


@dataclass
class ShardEncoder:
    """Encodes both splits in one reading, and sketches the training split.

    The caches of the tokenizer are cleared if the process takes more than `memory` bytes; None means no limit.
    """

    tokenizer: Tokenizer
    sketch: SketchBuilder
    on_progress: OnProgress
    memory: int | None = None

    def encode_into(self, folder: Path, pieces: Iterable[SplitPiece]) -> dict[str, Any]:
        """Write token shards of both splits to `folder`.

        Returns for each split whether it begins within a document (`goes_on`), and the text that the tokenizer loses
        (`lost`).
        """
        vocabulary = (self.tokenizer.vocab_size, self.tokenizer.framing, self.tokenizer.fingerprint)
        goes_on: list[bool | None] = [None, None]
        meters = LostTextMeter(self.tokenizer), LostTextMeter(self.tokenizer)
        with ShardWriter(folder / "train", *vocabulary) as train, ShardWriter(folder / "val", *vocabulary) as val:
            for batch in batches(pieces):
                encoded = self.tokenizer.encode_batch([piece.text for piece in batch])
                for part, writer in enumerate((train, val)):
                    chosen = [(ids, piece) for ids, piece in zip(encoded, batch, strict=True) if piece.is_val == part]
                    if chosen:
                        starts = [piece.starts for _, piece in chosen]
                        if goes_on[part] is None:
                            goes_on[part], starts[0] = not starts[0], True
                        writer.add_all([ids for ids, _ in chosen], [piece.bytes for _, piece in chosen], starts)
                    for _, piece in chosen:
                        meters[part].add(piece.text, piece.bytes)
                self.sketch.add([piece.text for piece in batch if not piece.is_val])
                self.on_progress(sum(piece.bytes for piece in batch))
                self.limit_memory()
        return {"goes_on": [bool(value) for value in goes_on], "lost": [meter.found.as_json() for meter in meters]}

    def limit_memory(self) -> None:
        """Clear the tokenizer's caches if the process has grown beyond its limit."""
        if self.memory is not None and resident_bytes() > self.memory:
            self.tokenizer.clear_cache()
            return_freed_memory()
            self.memory = max(self.memory, resident_bytes() + SLACK_BYTES)


def batches(pieces: Iterable[SplitPiece]) -> Iterator[list[SplitPiece]]:
    """Yield pieces in lists of about BATCH_CHARACTERS characters."""
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
