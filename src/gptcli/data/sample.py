"""A sample of the training text of a bounded size, for what is learnt from a part of it: a BPE tokenizer.

Every piece has a key, the hash of its document's digest and its number in it; those with the smallest keys are taken.
That is a reservoir (the k smallest of random keys are a uniform sample: Vitter, "Random sampling with a reservoir",
1985; Efraimidis and Spirakis 2006) which needs no order of reading, so that any number of processes draws the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from gptcli.data.arrays import stretches
from gptcli.data.permutation import derive, mix
from gptcli.data.split import BUCKETS, CUT, TRAIN, bucket

if TYPE_CHECKING:
    from gptcli.data.passes import SplitPiece
    from gptcli.data.stages import Job

SAMPLE_BYTES = 48_000_000
"""Text that a BPE tokenizer is learnt from at most: more hardly changes it, and its words must fit in memory."""
SEED = 0x5A4D
LONG_BYTES = 1 << 20
"""From this size on documents count by the piece, since there may be few of them."""


def drawn_buckets(records: np.ndarray, assignment: np.ndarray, wanted: int = SAMPLE_BYTES) -> int:
    """How many of the BUCKETS of keys are drawn, so that `wanted` bytes of what is trained on are; records (documents,)
    of RECORD, assignment (documents,).

    Of long documents so many pieces are drawn only on average.
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
    """high (N,) uint64, halves of digests -> (N,): where among all keys those of the documents' piece `number` lie."""
    return bucket(mix(high ^ derive(np.full(1, SEED, dtype=np.uint64), number)))


def drawn_pieces(job: Job, drawn: int) -> Iterator[SplitPiece]:
    """The pieces of the training part of a job's sections whose key is in one of the first `drawn` buckets."""
    job.require_scan()
    for section, file in zip(job.sections, job.files, strict=True):
        trained = np.isin(job.assignment(section), (TRAIN, CUT))
        high = job.records(section)["high"][trained]
        is_first_drawn = (buckets(high, 0) < drawn).tolist()
        document, number = (0, section.position - 1) if section.position else (-1, 0)
        for piece in job.read(section, file, (TRAIN, CUT)):
            if piece.is_val:
                continue
            document, number = (document + 1, 0) if piece.starts else (document, number + 1)
            if is_first_drawn[document] if number == 0 else buckets(high[document : document + 1], number)[0] < drawn:
                yield piece
