"""The two splits of a corpus of examples as token shards, and what is counted as they are written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gptcli.data.arrays import stretches
from gptcli.data.examples.identity import DIGEST
from gptcli.data.examples.units import Units, masked_writer
from gptcli.data.shards import TokenShards
from gptcli.data.sketch import SketchBuilder
from gptcli.data.split import TRAIN, VAL
from gptcli.data.token_sizes import TokenSizes
from gptcli.storage import create_file
from gptcli.tokenizer.tokenizer import Tokenizer

UNITS_AT_ONCE = 4096
PROMPTS = "{}-prompts.bin"
"""The digests of the prompts of a split, by which other corpora of a mix leave out what is validated on."""


class SplitWriter:
    """Writes one split of the units, and counts its tokens."""

    def __init__(self, directory: Path, kind: int, tokenizer: Tokenizer, sizes: TokenSizes) -> None:
        self.directory, self.kind, self.tokenizer, self.sizes = directory, kind, tokenizer, sizes
        self.token_counts = np.zeros(sizes.vocab_size, dtype=np.int64)
        self.units = 0
        self.sketch = SketchBuilder(0)

    def write(self, units: Units, assignment: np.ndarray) -> None:
        """Write the units of this kind, in their order."""
        of_kind = int(units.records["bytes"][assignment == self.kind].sum())
        self.sketch = SketchBuilder(of_kind)
        self.units = int((assignment == self.kind).sum())
        is_kept = np.repeat(assignment == self.kind, units.shards.unit_documents)
        with masked_writer(self.directory, self.tokenizer) as writer:
            writer.unit_documents = units.shards.unit_documents
            for ids, in_loss, lengths, sizes in kept_documents(units.shards, is_kept):
                writer.add_examples(ids, in_loss, lengths, sizes)
                self.token_counts += np.bincount(ids, minlength=len(self.token_counts))
                if self.kind == TRAIN:
                    edges = np.cumsum(lengths)[:-1]
                    self.sketch.add([self.tokenizer.decode(document) for document in np.split(ids, edges)])


def kept_documents(
    shards: TokenShards, is_kept: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (ids, loss mask, tokens of each document, bytes of each) of the documents that are kept, some at a time."""
    edges = np.append(shards.document_starts.astype(np.int64), len(shards))
    for first, kept in stretches_of(is_kept):
        if not kept.any():
            continue
        start, stop = int(edges[first]), int(edges[first + len(kept)])
        lengths = np.diff(edges[first : first + len(kept) + 1])
        tokens = np.repeat(kept, lengths)
        sizes = shards.sizes.array[first : first + len(kept)].astype(np.int64)
        yield shards.read(start, stop)[tokens], shards.read_mask(start, stop)[tokens], lengths[kept], sizes[kept]


def stretches_of(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (place of the first, values) of stretches of UNITS_AT_ONCE values."""
    for first in range(0, len(values), UNITS_AT_ONCE):
        yield first, values[first : first + UNITS_AT_ONCE]


def known_answers(units: Units, assignment: np.ndarray) -> int:
    """Return the number of validation units whose last answer is that of a training unit too."""
    answers = units.answers["high"]
    return int(np.isin(answers[assignment == VAL], answers[assignment == TRAIN]).sum())


def write_prompts(folder: Path, units: Units, assignment: np.ndarray) -> None:
    """Write the digests of the prompts of both splits to `folder`."""
    for name, kind in (("train", TRAIN), ("val", VAL)):
        with create_file(folder / PROMPTS.format(name)) as out:
            for _, some, kinds in stretches(units.records, assignment):
                out.write(np.ascontiguousarray(some[["high", "low"]][kinds == kind].astype(DIGEST)).data)


def read_prompts(folder: Path, name: str) -> np.ndarray:
    """Return the digests (units,) of DIGEST of the prompts of the split called `name`."""
    path = folder / PROMPTS.format(name)
    return np.fromfile(path, DIGEST)
