"""A sample of bounded size of the training text, from which a BPE tokenizer is learnt.

Every piece has a key, the hash of its document's digest and its number in it; those with the smallest keys are taken.
That is a reservoir (the k smallest of random keys are a uniform sample: Vitter, "Random sampling with a reservoir",
1985; Efraimidis and Spirakis 2006) which does not depend on the order of reading, so that any number of processes draws
the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gptcli.data.arrays import stretches
from gptcli.data.permutation import derive, mix
from gptcli.data.split import BUCKETS, CUT, TRAIN, bucket
from gptcli.data.split_reader import SplitPiece, SplitReader

SAMPLE_BYTES = 48_000_000
"""The most text that a BPE tokenizer is learnt from: more hardly changes it, and its words must fit in memory."""
SEED = 0x5A4D
LONG_BYTES = 1 << 20
"""The size from which on documents count by the piece, since there may be few of them."""


def drawn_buckets(records: np.ndarray, assignment: np.ndarray, wanted: int = SAMPLE_BYTES) -> int:
    """Return the number of the BUCKETS of keys to draw for a sample of `wanted` bytes of the training text.

    records (documents,) of RECORD, assignment (documents,). The sample has that size only on average if there are long
    documents.
    """
    below, long_bytes = np.zeros(BUCKETS, dtype=np.int64), 0
    for _, some, kinds in stretches(records, assignment):
        trained = (kinds == TRAIN) | (kinds == CUT)
        is_long = some["bytes"] >= LONG_BYTES
        short = some[trained & ~is_long]
        below += np.bincount(buckets(short["high"], 0), short["bytes"], BUCKETS).astype(np.int64)
        long_bytes += int(some["bytes"][trained & is_long].sum())
    expected = np.cumsum(below) + long_bytes * np.arange(1, BUCKETS + 1) / BUCKETS
    return int(np.searchsorted(expected, wanted, side="right"))


def buckets(high: np.ndarray, number: int) -> np.ndarray:
    """high (N,) uint64, halves of digests -> (N,) buckets of the keys of piece `number` of the documents."""
    return bucket(mix(high ^ derive(np.full(1, SEED, dtype=np.uint64), number)))


def drawn_pieces(reader: SplitReader, drawn: int) -> Iterator[SplitPiece]:
    """Yield the pieces of the training split whose key is in one of the first `drawn` buckets."""
    reader.require_scan()
    for section, file in reader.sections:
        trained = np.isin(reader.assignment(section), (TRAIN, CUT))
        high = reader.records(section)["high"][trained]
        is_first_drawn = (buckets(high, 0) < drawn).tolist()
        document, number = (0, section.position - 1) if section.position else (-1, 0)
        for piece in reader.read(section, file, (TRAIN, CUT)):
            if piece.is_val:
                continue
            document, number = (document + 1, 0) if piece.starts else (document, number + 1)
            if is_first_drawn[document] if number == 0 else buckets(high[document : document + 1], number)[0] < drawn:
                yield piece
