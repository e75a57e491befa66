"""A sketch of the training text: a sample of hashed passages, by which text that a run was trained on is recognised.

A passage is WINDOW_BYTES of UTF-8 without white space. Its selection depends on a hash of its first ANCHOR_BYTES alone,
so that the same passages are sampled from any excerpt, wherever it begins and ends (local sampling, as in
Manber, "Finding similar files in a large file system", 1994, and Schleimer, Wilkerson and Aiken, "Winnowing", 2003).
The passages of the smallest hashes are kept (a bottom-k sketch: Broder, "On the resemblance and containment of
documents", 1997), so that the sketch has a bounded size and depends neither on the order of reading nor on the number
of processes; the sketches of two texts can be joined. A sketch does not depend on tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptcli import strict_json
from gptcli.data.arrays import distinct
from gptcli.data.permutation import derive, mix
from gptcli.errors import CheckpointError
from gptcli.storage import atomic_directory, open_regular, read_regular, storage_errors, write_file

SKETCH, HASHES, INDEX = "train-sketch", "hashes.bin", "sketch.json"
FORMAT = 1
WINDOW_BYTES, ANCHOR_BYTES = 48, 8
SPACING_BITS = 5
"""One passage in 2^5 bytes of a small text is sampled, on average."""
MAX_HASHES = 1 << 19
"""The most hashes, 4 MiB on disk: the passages of 16 MB of text. Those of a larger text lie further apart."""
ALL = 1 << 64
BLOCK = 1 << 16
"""The bytes that are searched for anchors at once, which fit in the cache of a processor."""
HASH = np.dtype("<u8")
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
FACTORS = derive(np.array([0x5CE7C4], dtype=np.uint64), np.arange(WINDOW_BYTES // 8)) | np.uint64(1)
END, END_BYTE = "\udcff", 0xFF
"""The byte between two texts, which UTF-8 never has, and the character that surrogateescape encodes as it."""
BLANK = 0x20
"""The last of the bytes that are left out, white space among them, so that line breaks change no passage."""
HALF = np.uint64(32)


class Passages(NamedTuple):
    """Passages of several texts: `hashes` (N,) uint64, and `texts` (N,) the number of the text of each."""

    hashes: np.ndarray
    texts: np.ndarray


def passages(
    texts: Sequence[str], limit: int = ALL, *, window_bytes: int = WINDOW_BYTES, spacing_bits: int = SPACING_BITS
) -> Passages:
    """Return the passages within one of the texts whose hash is below `limit`, in order.

    They have `window_bytes`, a multiple of 8, and one begins in 2^spacing_bits bytes, on average. The upper half of a
    hash is that of the anchor, the lower half that of the whole passage.
    """
    content = np.frombuffer(END.join(texts).encode("utf-8", "surrogateescape"), dtype=np.uint8)
    whole = np.compress(content > BLANK, content)
    if len(whole) < window_bytes:
        return Passages(np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64))
    # The eight bytes at every place of the text, as numbers that share its memory.
    words = np.ndarray((len(whole) - ANCHOR_BYTES + 1,), HASH, whole, strides=(1,))
    starts, keys = anchors(words, limit, spacing_bits)
    ends = np.append(np.flatnonzero(whole == END_BYTE), len(whole))
    owners = np.searchsorted(ends, starts)  # a passage that begins with an END extends beyond the text that it ends
    is_within = starts + window_bytes <= ends[owners]
    starts, keys, owners = starts[is_within], keys[is_within], owners[is_within]
    hashes = np.zeros(len(starts), dtype=np.uint64)
    for number, factor in enumerate(FACTORS[: window_bytes // 8]):
        hashes += words[starts + 8 * number] * factor
    hashes = (keys << np.uint64(spacing_bits) >> HALF << HALF) | mix(hashes) >> HALF
    is_below = below(hashes, limit)
    return Passages(hashes[is_below], owners[is_below])


def anchors(words: np.ndarray, limit: int, spacing_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """words (N,) uint64 -> (M,) places of the anchors of all passages below `limit`, and their hashes."""
    bound = np.uint64((limit >> spacing_bits) + bool(limit & (1 << spacing_bits) - 1))
    products, is_small = np.empty(BLOCK, dtype=np.uint64), np.empty(BLOCK, dtype=bool)
    places, keys = [], []
    for start in range(0, len(words), BLOCK):
        block = words[start : start + BLOCK]
        np.multiply(block, MULTIPLIER, out=products[: len(block)])
        np.less(products[: len(block)], bound, out=is_small[: len(block)])
        found = np.flatnonzero(is_small[: len(block)])
        places.append(found + start)
        keys.append(products[found])
    return np.concatenate(places), np.concatenate(keys)


def below(hashes: np.ndarray, limit: int) -> np.ndarray:
    """hashes (N,) uint64 -> (N,) bool: True if below `limit`, which may be 2^64."""
    return hashes <= np.uint64(limit - 1) if limit else np.zeros(len(hashes), dtype=bool)


@dataclass(frozen=True)
class TextSketch:
    """The hashes of the passages of a text that are below `limit`: (N,) uint64, ascending and different."""

    hashes: np.ndarray
    limit: int

    @classmethod
    def joined(cls, sketches: Iterable[TextSketch]) -> TextSketch:
        """Return the sketch of all texts together, with MAX_HASHES at most."""
        parts = list(sketches)
        limit = min(part.limit for part in parts)
        hashes = distinct(np.concatenate([part.hashes[below(part.hashes, limit)] for part in parts]))
        if len(hashes) > MAX_HASHES:
            limit = int(hashes[MAX_HASHES])
        return cls(hashes[:MAX_HASHES], limit)

    def recognise(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of passages sampled from each text, and of those in the sketch: two (N,) of int."""
        hashes, owners = passages(texts, self.limit)
        is_known = np.zeros(len(hashes), dtype=bool)
        if len(self.hashes):
            places = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
            is_known = self.hashes[places] == hashes
        return np.bincount(owners, minlength=len(texts)), np.bincount(owners[is_known], minlength=len(texts))

    def save(self, directory: Path) -> None:
        """Write the sketch to `directory`, which appears whole.

        Raises:
            StorageError: The disk is full or the directory cannot be written.
        """
        content = self.hashes.astype(HASH).tobytes()
        values = {"format": FORMAT, "window_bytes": WINDOW_BYTES, "passages": len(self.hashes), "limit": self.limit}
        index = values | {"sha256": digest_of(values, content)}
        with atomic_directory(directory) as folder:
            write_file(folder / HASHES, content)
            write_file(folder / INDEX, strict_json.dumps(index, indent=2) + "\n")

    @classmethod
    def open(cls, directory: Path) -> TextSketch:
        """Open the sketch in `directory`; if there is none, return one that holds nothing and samples nothing.

        Raises:
            CheckpointError: The sketch is damaged.
        """
        if not directory.is_dir():
            return NOTHING_KNOWN
        with storage_errors(directory, "read"), open_regular(directory / HASHES) as file:
            content = file.read(HASH.itemsize * MAX_HASHES)
            return cls.checked(directory, read_regular(directory / INDEX), content)

    @classmethod
    def checked(cls, directory: Path, index: bytes, content: bytes) -> TextSketch:
        """Return the sketch of these two files, after every byte is verified."""
        try:
            values: dict[str, Any] = strict_json.parse(index)
            digest = values.pop("sha256")
            if digest == digest_of(values, content) and values["format"] == FORMAT:
                return cls(np.frombuffer(content, HASH).astype(np.uint64), int(values["limit"]))
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(directory) from error
        raise damaged(directory)


NOTHING_KNOWN = TextSketch(np.empty(0, dtype=np.uint64), 0)


def digest_of(values: dict[str, Any], content: bytes) -> str:
    """Return the SHA-256 of both files of a sketch: the index without this hash, and the hashes."""
    return hashlib.sha256(strict_json.dumps(values, sort_keys=True).encode() + content).hexdigest()


def damaged(directory: Path) -> CheckpointError:
    """Return the error for a damaged sketch."""
    return CheckpointError(
        f"{directory} is damaged (its SHA-256 is another)", f"delete {directory}: then eval cannot say what was read"
    )


class SketchBuilder:
    """Collects the sketch of a text that comes in pieces; passages across two pieces are left out.

    `text_bytes` is the approximate size of the text, which decides how far apart the passages lie.
    """

    def __init__(self, text_bytes: int) -> None:
        limit = min(ALL, (ALL * MAX_HASHES << SPACING_BITS) // max(1, text_bytes))
        self.sketch = TextSketch(np.empty(0, dtype=np.uint64), limit)
        self.waiting: list[TextSketch] = []
        self.count = 0

    def add(self, texts: Sequence[str]) -> None:
        """Add pieces of different documents."""
        self.include(TextSketch(passages(texts, self.sketch.limit).hashes, self.sketch.limit))

    def include(self, sketch: TextSketch) -> None:
        """Add a sketch of another part of the same text."""
        self.waiting.append(sketch)
        self.count += len(sketch.hashes)
        if self.count > MAX_HASHES:
            self.merge()

    def merge(self) -> TextSketch:
        """Return the sketch of all that was added."""
        self.sketch = TextSketch.joined([self.sketch, *self.waiting])
        self.waiting, self.count = [], 0
        return self.sketch
