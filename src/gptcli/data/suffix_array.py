"""Suffix arrays over the training tokens, which find text that stands in the corpus word for word.

The tokens are copied to blocks of bounded size, each with a suffix array of its own, so that building an index takes
bounded memory however large the corpus is. A token is written as its id plus 1 in as many bytes, the highest first, as
the vocabulary needs; libdivsufsort sorts the suffixes of these bytes, and those that begin at a token are kept. 0
stands between documents, so that no match extends over two of them. Lookups compare as in Manber and Myers, "Suffix
arrays: a new method for on-line string searches", 1993.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from gptcli import strict_json
from gptcli.console import Progress, say
from gptcli.data.cache import cache_key, is_whole, new_entry, only_writer
from gptcli.data.shards import TokenShards
from gptcli.data.token_mix import TokenMix
from gptcli.storage import create_file, read_regular, write_file

FORMAT = 1
INDEX = "index.json"
SEPARATOR = 0
STEP = 16
"""Tokens that are compared at once; each block ends with as many separators."""
OVERLAP = 4096
"""Tokens that two windows of a document which is too long for one share, so that shorter matches are found whole."""
BATCH = 1 << 15
"""Positions that are looked up at once."""
PLACE = np.dtype("<i4")
ROW = np.dtype([("start", "<i8"), ("part", "<i8"), ("document", "<i8"), ("begin", "<i8")])
BEFORE_ALL, AFTER_ALL = -1, 1 << 40
"""The end of a phrase that sorts before, or after, every text that begins with the phrase."""


class IndexLimits(NamedTuple):
    """The size of an index and of its blocks."""

    most_bytes: int = 1 << 30
    """Bytes of tokens, as they are in the shards; of a larger corpus a sample is indexed."""
    block_bytes: int = 1 << 27
    """Bytes that are sorted at once; building takes about 6 times as much memory."""


LIMITS = IndexLimits()


class Matches(NamedTuple):
    """The longest match that starts at each position of a text: its length in tokens, and a place; both (N,) int64."""

    lengths: np.ndarray
    places: np.ndarray


class CorpusPlace(NamedTuple):
    """A place in the training text: the corpus and the document by their numbers, and the token of the stream."""

    part: int
    document: int
    token: int


class IndexPiece(NamedTuple):
    """Tokens of documents, as they are indexed, and the ROWs that say where each document begins in them."""

    tokens: np.ndarray
    rows: np.ndarray


class DocumentWindows(NamedTuple):
    """Documents, or windows of long ones: their numbers, and where their text begins and ends in the stream, (U,)."""

    documents: np.ndarray
    begins: np.ndarray
    ends: np.ndarray


class IndexBlock:
    """A block of an index, mapped into memory."""

    def __init__(self, folder: Path, number: int, dtype: np.dtype[np.unsignedinteger]) -> None:
        self.text = np.memmap(folder / block_file(number, "tokens"), dtype, mode="r")
        self.suffixes = np.memmap(folder / block_file(number, "suffixes"), PLACE, mode="r")
        self.rows = np.memmap(folder / block_file(number, "documents"), ROW, mode="r")

    def search(self, phrase: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Search the suffixes of `phrase` (ids plus 1, then STEP ends) that start at `at`, (N,).

        Returns:
            (bounds, lengths, places), each (N,): how many suffixes of the block sort before it, and the length and
            the place of the longest match.
        """
        low, high = np.zeros(len(at), np.int64), np.full(len(at), len(self.suffixes), np.int64)
        below, above = np.zeros_like(low), np.zeros_like(low)  # tokens shared with the suffixes at low - 1 and high
        live = np.flatnonzero(low < high)
        while len(live):
            middle = (low[live] + high[live]) // 2
            places = self.suffixes[middle].astype(np.int64)
            shared = self.common(phrase, at[live], places, np.minimum(below[live], above[live]))
            is_less = self.text[places + shared] < phrase[at[live] + shared]
            lower, upper = live[is_less], live[~is_less]
            low[lower], below[lower] = middle[is_less] + 1, shared[is_less]
            high[upper], above[upper] = middle[~is_less], shared[~is_less]
            live = live[low[live] < high[live]]
        nearest = np.where(below >= above, np.maximum(low - 1, 0), np.minimum(high, len(self.suffixes) - 1))
        return low, np.maximum(below, above), self.suffixes[nearest].astype(np.int64)

    def common(self, phrase: np.ndarray, at: np.ndarray, places: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Return how many tokens are equal from `at` in the phrase and `places` in the block; `known` are, at least."""
        shared = known.copy()
        live, steps = np.arange(len(at)), np.arange(STEP)
        while len(live):
            wanted = phrase[(at[live] + shared[live])[:, None] + steps]
            differs = wanted != self.text[(places[live] + shared[live])[:, None] + steps]
            is_equal = ~differs.any(axis=1)
            shared[live] += np.where(is_equal, STEP, differs.argmax(axis=1))
            live = live[is_equal]
        return shared


class SuffixArray:
    """An index of training tokens, in the cache; a place is a number that `locate` explains."""

    def __init__(self, folder: Path) -> None:
        found = strict_json.parse(read_regular(folder / INDEX))
        dtype: np.dtype[np.unsignedinteger] = np.dtype(found["dtype"])
        self.blocks = [IndexBlock(folder, number, dtype) for number in range(found["blocks"])]
        self.firsts = np.cumsum([0, *(len(block.text) for block in self.blocks)])
        """The place at which each block begins, and the end of the last."""
        self.sampled: float = found["sampled"]
        """The share of the training tokens that are indexed; 1 unless the corpus is larger than the limit."""
        self.tokens: int = found["tokens"]
        """The tokens that are indexed."""

    @classmethod
    def open_or_build(cls, tokens: TokenMix, cache_dir: Path, limits: IndexLimits = LIMITS) -> Self:
        """Open the index of a training split, which is built first where the cache has none.

        Raises:
            DataError, StorageError: the tokens cannot be read, or the index cannot be written.
        """
        entry = cache_dir / "copies" / cache_key("suffix array", FORMAT, tokens.fingerprint, list(limits))
        if not is_whole(entry):
            with only_writer(entry):
                if not is_whole(entry):
                    with new_entry(entry) as folder:
                        build(folder, tokens, limits)
        index = cls(entry)
        if index.sampled < 1:
            say(f"the training text is larger than the index may be: {index.sampled:.1%} of its tokens are searched")
        return index

    def longest(self, ids: np.ndarray) -> Matches:
        """Return the longest match that starts at each position of `ids`, (N,)."""
        phrase = with_ends(ids, BEFORE_ALL)
        lengths, found = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
        for first, block in zip(self.firsts, self.blocks, strict=False):
            for start in range(0, len(ids), BATCH):
                at = np.arange(start, min(start + BATCH, len(ids)))
                _, shared, places = block.search(phrase, at)
                is_longer = shared > lengths[at]
                lengths[at[is_longer]] = shared[is_longer]
                found[at[is_longer]] = places[is_longer] + first
        return Matches(lengths, found)

    def occurrences(self, ids: np.ndarray, most: int) -> np.ndarray:
        """Return up to `most` places at which the phrase `ids` stands, in the order of what follows it there."""
        places: list[np.ndarray] = []
        for first, block in zip(self.firsts, self.blocks, strict=False):
            start, stop = (
                int(block.search(with_ends(ids, end), np.zeros(1, np.int64))[0][0]) for end in (BEFORE_ALL, AFTER_ALL)
            )
            places.append(block.suffixes[start : min(stop, start + most)].astype(np.int64) + first)
        return np.concatenate(places)[:most]

    def locate(self, place: int) -> CorpusPlace:
        """Return the document that a place is in."""
        number = int(np.searchsorted(self.firsts, place, side="right")) - 1
        rows, within = self.blocks[number].rows, place - int(self.firsts[number])
        row = rows[int(np.searchsorted(rows["start"], within, side="right")) - 1]
        return CorpusPlace(int(row["part"]), int(row["document"]), int(row["begin"]) + within - int(row["start"]))


def with_ends(ids: np.ndarray, end: int) -> np.ndarray:
    """Return ids as they are compared with the text of a block, and STEP ends after them."""
    return np.concatenate([np.asarray(ids, np.int64) + 1, np.full(STEP, end, np.int64)])


def block_file(number: int, kind: str) -> str:
    """Return the name of a file of a block."""
    return f"{number:05d}.{kind}"


def build(folder: Path, tokens: TokenMix, limits: IndexLimits) -> None:
    """Write the index of a training split into a folder."""
    largest = max(part.vocab_size for part in tokens.parts)
    width = max(1, (largest.bit_length() + 7) // 8)
    dtype: np.dtype[np.unsignedinteger] = np.dtype({1: "<u1", 2: "<u2"}.get(width, "<u4"))
    block_tokens = max(1, limits.block_bytes // width)
    stored = sum(len(part) * part.dtype.itemsize for part in tokens.parts)
    share = min(1.0, limits.most_bytes / stored)
    blocks = kept = 0
    gathered: list[IndexPiece] = []
    with Progress("index for copies", len(tokens), unit="tokens") as progress:
        for piece in pieces(tokens.parts, dtype, max(1, block_tokens // 8), share):
            if gathered and sum(len(one.tokens) for one in gathered) + len(piece.tokens) > block_tokens:
                write_block(folder, blocks, gathered, width)
                blocks, gathered = blocks + 1, []
            gathered.append(piece)
            kept += len(piece.tokens)
            progress.update(round(len(piece.tokens) / share))
        if gathered:
            write_block(folder, blocks, gathered, width)
            blocks += 1
    sampled = 1.0 if share == 1 else min(1.0, kept / len(tokens))
    found = {"format": FORMAT, "dtype": dtype.str, "blocks": blocks, "tokens": kept, "sampled": sampled}
    write_file(folder / INDEX, strict_json.dumps(found))


def pieces(
    parts: tuple[TokenShards, ...], dtype: np.dtype[np.unsignedinteger], most: int, share: float
) -> Iterator[IndexPiece]:
    """Yield about `share` of the documents, evenly spread, in pieces of at most `most` tokens and their separators.

    A window of a document that is too long for a piece counts as a document.
    """
    drawn = 0
    for number, part in enumerate(parts):
        for position, units in stretches(part, most):
            counts = drawn + np.arange(len(units.documents))
            is_kept = np.ceil((counts + 1) * share) > np.ceil(counts * share)
            drawn += len(counts)
            if is_kept.any():
                stop = int(units.ends[-1])
                documents, begins, ends = (values[is_kept] for values in units)
                text = part.read(position, max(position, stop))
                lengths = ends - begins
                gaps = np.repeat(np.arange(len(lengths)), lengths)  # the separators before each token
                sources = np.arange(len(gaps)) + np.repeat(begins - position - np.cumsum(lengths) + lengths, lengths)
                tokens = np.full(len(gaps) + len(lengths), SEPARATOR, dtype)
                tokens[np.arange(len(gaps)) + gaps] = text[sources].astype(dtype) + dtype.type(1)
                rows = np.empty(len(lengths), ROW)
                rows["start"], rows["part"] = np.cumsum(lengths + 1) - lengths - 1, number
                rows["document"], rows["begin"] = documents, begins
                yield IndexPiece(tokens, rows)


def stretches(part: TokenShards, most: int) -> Iterator[tuple[int, DocumentWindows]]:
    """Yield stretches of a split, each of at most `most` tokens: where it starts, and its documents without framing.

    A document that is longer than that is cut into windows that overlap.
    """
    starts = part.document_starts.astype(np.int64)
    begin_id, end_id = part.framing.begin_id, part.framing.end_id
    position = int(starts[0]) if len(starts) else len(part)
    while position < len(part):
        stop = min(position + most, len(part))
        following = stop
        if stop < len(part):
            last = int(starts[np.searchsorted(starts, stop, side="right") - 1])
            if last > position:
                stop = following = last
            else:
                following = stop - min(OVERLAP, most // 2)
        first = int(np.searchsorted(starts, position, side="right")) - 1
        after = int(np.searchsorted(starts, stop, side="left"))
        begins = np.maximum(starts[first:after], position)
        ends = np.append(begins[1:], stop)
        text = part.read(position, stop)
        if begin_id is not None:
            begins = begins + ((text[begins - position] == begin_id) & (begins == starts[first:after]))
        if end_id is not None:
            ends = ends - ((text[ends - 1 - position] == end_id) & (ends > begins))
        yield position, DocumentWindows(np.arange(first, after), begins, ends)
        position = following


def write_block(folder: Path, number: int, gathered: list[IndexPiece], width: int) -> None:
    """Sort the suffixes of the gathered pieces, and write the block."""
    from pydivsufsort import divsufsort

    begins = np.cumsum([0, *(len(piece.tokens) for piece in gathered)])
    for piece, begin in zip(gathered, begins, strict=False):
        piece.rows["start"] += begin
    count = int(begins[-1])
    coded = np.empty((count, width), np.uint8)
    with create_file(folder / block_file(number, "tokens")) as file:
        for piece, begin in zip(gathered, begins, strict=False):
            file.write(piece.tokens.data)
            for column in range(width):
                shift = piece.tokens.dtype.type(8 * (width - 1 - column))
                coded[begin : begin + len(piece.tokens), column] = (piece.tokens >> shift) & 0xFF
        file.write(np.zeros(STEP, gathered[0].tokens.dtype).data)
    with create_file(folder / block_file(number, "documents")) as file:
        for piece in gathered:
            file.write(piece.rows.data)
    gathered.clear()
    order = divsufsort(coded.reshape(-1))
    with create_file(folder / block_file(number, "suffixes")) as file:
        for start in range(0, len(order), 1 << 22):
            some = order[start : start + (1 << 22)]
            file.write((some[some % width == 0] // width).astype(PLACE).data)
