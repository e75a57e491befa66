"""The two splits of a corpus of examples as token shards, and what is counted as they are written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gptcli.data.arrays import stretches
from gptcli.data.examples.identity import DIGEST
from gptcli.data.examples.units import Units, masked_writer
from gptcli.data.shards import TokenShards
from gptcli.data.sketch import SketchBuilder, TextSketch
from gptcli.data.split import TRAIN, VAL
from gptcli.storage import create_file
from gptcli.tokenizer.tokenizer import Tokenizer

DOCUMENTS_AT_ONCE = 4096
PROMPTS = "{}-prompts.bin"
ENDS = "{}-{}.bin"
"""The digests of the prompts of a split, and those of UnitEnds, by which other corpora of a mix leave out what is
validated on."""


class WrittenSplit(NamedTuple):
    """The counts of a split: its units, and each token of the vocabulary, (V,)."""

    units: int
    token_counts: np.ndarray


def write_split(directory: Path, shards: TokenShards, is_kept: np.ndarray, tokenizer: Tokenizer) -> WrittenSplit:
    """Write the units that are kept, is_kept (units,) bool, in their order to a new split."""
    token_counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    with masked_writer(directory, tokenizer) as writer:
        writer.unit_documents = shards.unit_documents
        for ids, in_loss, lengths, sizes in kept_documents(shards, np.repeat(is_kept, shards.unit_documents)):
            writer.add_examples(ids, in_loss, lengths, sizes)
            token_counts += np.bincount(ids, minlength=len(token_counts))
    return WrittenSplit(int(is_kept.sum()), token_counts)


def sketch_of(train: TokenShards, tokenizer: Tokenizer) -> TextSketch:
    """Return the sketch of the text of a training split."""
    sketch = SketchBuilder(train.bytes)
    for ids, _, lengths, _ in kept_documents(train, np.ones(train.documents, dtype=bool)):
        sketch.add([tokenizer.decode(document) for document in np.split(ids, np.cumsum(lengths)[:-1])])
    return sketch.merge()


def kept_documents(
    shards: TokenShards, is_kept: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (ids, loss mask, tokens of each document, bytes of each) of the documents that are kept, some at a time."""
    edges = np.append(shards.document_starts.astype(np.int64), len(shards))
    for first in range(0, len(is_kept), DOCUMENTS_AT_ONCE):
        kept = is_kept[first : first + DOCUMENTS_AT_ONCE]
        if not kept.any():
            continue
        start, stop = int(edges[first]), int(edges[first + len(kept)])
        lengths = np.diff(edges[first : first + len(kept) + 1])
        tokens = np.repeat(kept, lengths)
        sizes = shards.sizes.array[first : first + len(kept)].astype(np.int64)
        yield shards.read(start, stop)[tokens], shards.read_mask(start, stop)[tokens], lengths[kept], sizes[kept]


def known_answers(units: Units, assignment: np.ndarray) -> int:
    """Return the number of validation units whose last answer is that of a training unit too."""
    answers = units.answers["high"]
    return int(np.isin(answers[assignment == VAL], answers[assignment == TRAIN]).sum())


def write_prompts(folder: Path, units: Units, assignment: np.ndarray) -> None:
    """Write the digests of the prompts of both splits, but for white space, to `folder`."""
    for name, kind in (("train", TRAIN), ("val", VAL)):
        with create_file(folder / PROMPTS.format(name)) as out:
            for _, some, kinds in stretches(units.spaced, assignment):
                out.write(np.ascontiguousarray(some[kinds == kind]).data)


def write_ends(folder: Path, units: Units, assignment: np.ndarray) -> None:
    """Write the digests of the whole units of both splits, and of what they begin with, to `folder`."""
    owners, beginnings = units.beginnings()
    for name, kind in (("train", TRAIN), ("val", VAL)):
        is_kept = assignment == kind
        number = np.cumsum(is_kept) - 1
        chosen = is_kept[owners]
        for kind_of_end, values in (
            ("wholes", units.wholes[is_kept]),
            ("beginnings", beginnings[chosen]),
            ("owners", number[owners[chosen]].astype("<i8")),
        ):
            with create_file(folder / ENDS.format(name, kind_of_end)) as out:
                out.write(np.ascontiguousarray(values).data)


def read_prompts(folder: Path, name: str) -> np.ndarray:
    """Return the digests (units,) of DIGEST of the prompts of the split called `name`."""
    path = folder / PROMPTS.format(name)
    return np.fromfile(path, DIGEST)


class UnitEnds(NamedTuple):
    """The digests of the whole units of a split, (units,), and of what they begin with, (N,), with the unit of each."""

    wholes: np.ndarray
    beginnings: np.ndarray
    owners: np.ndarray

    @classmethod
    def read(cls, folder: Path, name: str) -> UnitEnds:
        """Return those of the split called `name`."""
        wholes, beginnings = (np.fromfile(folder / ENDS.format(name, kind), DIGEST) for kind in cls._fields[:2])
        return cls(wholes, beginnings, np.fromfile(folder / ENDS.format(name, "owners"), "<i8"))

    def continuing(self, other: UnitEnds) -> np.ndarray:
        """Return whether each unit begins with a whole unit of another split, or one of that begins with it, (units,)
        bool.
        """
        found = np.isin(self.wholes, other.beginnings)
        found[self.owners[np.isin(self.beginnings, other.wholes)]] = True
        return found
