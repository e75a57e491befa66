"""Near-duplicate documents: pairs whose sets of passages have a Jaccard similarity of about SIMILARITY.

MinHash (Broder, "On the resemblance and containment of documents", 1997) with locality-sensitive hashing in bands, as
`datatrove` and `text-dedup` do it; the signatures are those of `rensa`. Candidates that share a band are kept as a pair
if their signatures agree. Signatures are in files, and every band is sorted by itself in bounded memory, so that the
pairs do not depend on the number of processes. Documents without a passage of WINDOW_BYTES are in no pair.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptcli.console import Progress
from gptcli.data.duplicates import later_occurrences
from gptcli.data.permutation import derive, mix
from gptcli.data.sketch import passages
from gptcli.data.stages import Job, batches, run_once
from gptcli.data.worker_pool import WorkerConfig, in_order
from gptcli.errors import missing_extra
from gptcli.storage import append_content, create_file

SIMILARITY = 0.5
"""The similarity of a pair; texts of 0.5 share two thirds of their passages. It is lower than a limit for dropping
documents, since shared passages flatter the validation loss and grouping loses no text."""
BANDS, ROWS = 28, 4
"""Two documents of similarity s share a band with probability 1 - (1 - s^4)^28: 0.84 at 0.5, 0.98 at 0.6."""
WINDOW_BYTES, SPACING_BITS = 24, 2
"""A passage is about as long as five words; one begins in four bytes."""
SEED = 0x4EA2
ROUNDS = 4
"""The number of times that candidates which disagree with the first of their band are compared among themselves."""
COMPARED_AT_ONCE = 1 << 14
SIGNATURES, PLACES = "signatures.bin", "places.bin"
WORD, PLACE = np.dtype("<u4"), np.dtype("<i8")
BAND = np.dtype([("high", "<u8"), ("low", "<u8")])
FACTORS = derive(np.array([SEED], dtype=np.uint64), np.arange(ROWS)) | np.uint64(1)


def require_rensa() -> None:
    """Raise a UsageError unless rensa, which makes the signatures, is installed."""
    try:
        import rensa  # noqa: F401
    except ImportError as error:
        raise missing_extra("rensa", "near", "data.deduplicate=near") from error


def near_pairs(jobs: Sequence[Job], workers: WorkerConfig, folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (places, places of earlier near-duplicates) of documents of a corpus that has been indexed.

    A document that is longer than a piece is a near-duplicate of another if one of its pieces is one of a piece of the
    other.
    """
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix="near-") as scratch,
        Progress("near", len(jobs), unit="parts") as progress,
    ):
        where = Path(scratch)
        with create_file(where / SIGNATURES) as signatures, create_file(where / PLACES) as places:
            for job, _ in zip(jobs, in_order(sign, jobs, workers.processes), strict=True):
                append_content(job.folder / SIGNATURES, signatures)
                append_content(job.folder / PLACES, places)
                progress.update()
        if not (where / PLACES).stat().st_size:
            return
        documents = np.memmap(where / PLACES, PLACE, mode="r")
        signed = np.memmap(where / SIGNATURES, WORD, mode="r", shape=(len(documents), BANDS * ROWS))
        for band in range(BANDS):
            for units, others in agreeing(signed, band, where):
                yield documents[units], documents[others]


def agreeing(signed: np.ndarray, band: int, folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of rows of signed (N, BANDS * ROWS) that are equal in a band and agree on the whole."""
    rows = np.arange(len(signed))
    for _ in range(ROUNDS):
        apart = [np.empty(0, dtype=PLACE)]
        for some, firsts in later_occurrences(band_hashes(signed, rows, band), folder):
            some, firsts = rows[some], rows[firsts]
            for start in range(0, len(some), COMPARED_AT_ONCE):
                ours, theirs = some[start : start + COMPARED_AT_ONCE], firsts[start : start + COMPARED_AT_ONCE]
                agree = (signed[ours] == signed[theirs]).mean(axis=1) >= SIMILARITY
                yield ours[agree], theirs[agree]
                apart.append(ours[~agree])
        rows = np.sort(np.concatenate(apart))
        if len(rows) < 2:
            return


def band_hashes(signed: np.ndarray, rows: np.ndarray, band: int) -> np.ndarray:
    """Return (N,) of BAND: the hash of a band of each of the rows."""
    hashes = np.zeros(len(rows), dtype=BAND)
    for start in range(0, len(rows), COMPARED_AT_ONCE):
        some = slice(start, start + COMPARED_AT_ONCE)
        words = signed[rows[some], band * ROWS : (band + 1) * ROWS]
        hashes["high"][some] = mix((words * FACTORS).sum(axis=1, dtype=np.uint64))
    return hashes


def sign(job: Job) -> dict[str, Any]:
    """Write the signatures of the pieces of a part of a corpus that have a passage, and their documents' places."""

    def make(folder: Path) -> dict[str, Any]:
        with create_file(folder / SIGNATURES) as signatures, create_file(folder / PLACES) as places:
            first, _ = job.reader.sections[0]
            place = first.first - int(first.position == 0)  # of the document before, or begun there
            for batch in batches(job.reader.pieces()):
                rows, signed = signatures_of([piece.text for piece in batch])
                of_pieces = place + np.cumsum([piece.starts for piece in batch])
                signatures.write(signed.data)
                places.write(of_pieces[rows].astype(PLACE).data)
                place = int(of_pieces[-1])
        return {}

    return run_once(job.folder, make)


def signatures_of(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows (M,): the texts that have a passage, their signatures (M, BANDS * ROWS))."""
    from rensa import RMinHash

    found = passages(texts, window_bytes=WINDOW_BYTES, spacing_bits=SPACING_BITS)
    counts = np.bincount(found.texts, minlength=len(texts))
    rows = np.flatnonzero(counts)
    if not len(rows):
        return rows, np.empty((0, BANDS * ROWS), dtype=WORD)
    offsets = np.concatenate(([0], np.cumsum(counts[rows]))).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(found.hashes, offsets, BANDS * ROWS, SEED)
    return rows, np.array(matrix.to_rows(), dtype=WORD)
