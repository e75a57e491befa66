"""Which document is trained on, which is validated on and which is dropped, decided from a few numbers a document.

Exact duplicates go first, so that no validation document can occur in the training split. Then either whole documents
are drawn by their hash, or the last characters of the corpus are taken. Knows digests and sizes, never a text.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gptcli.data.config import DataConfig
from gptcli.data.permutation import derive, mix
from gptcli.errors import DataError

RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("bytes", "<u8"), ("characters", "<u8")])
"""What a scan keeps of a document: its 16-byte digest, and its size; a blank document has 0 characters."""

TRAIN, VAL, DUPLICATE, BLANK, OVERLAP, CUT = range(6)
"""What becomes of a document. OVERLAP: dropped from training since it is in the validation corpus; CUT: its beginning
is trained on and its end validated on."""

SMALL_CORPUS_BYTES = 10_000_000
MAX_VAL_BYTES = 20_000_000


class Split(NamedTuple):
    """`assignment` (documents,) uint8 of the values above; the one CUT document is cut before character `cut_at`."""

    assignment: np.ndarray
    cut_at: int
    rule: str
    """The rule that was applied, in words."""


def split_documents(records: np.ndarray, own_val: int, config: DataConfig, seed: int) -> Split:
    """Decide on every document; records (documents,) of RECORD, of which the first `own_val` are a validation corpus.

    Raises:
        DataError: one of the two parts would be empty.
    """
    assignment = np.full(len(records), TRAIN, dtype=np.uint8)
    position = np.arange(len(records))
    first = first_occurrences(records["high"], records["low"])
    assignment[first < position] = DUPLICATE
    assignment[(first < own_val) & (position >= own_val)] = OVERLAP
    assignment[records["characters"] == 0] = BLANK
    kept = np.flatnonzero(assignment == TRAIN)
    if config.val is not None:
        assignment[kept[kept < own_val]] = VAL
        check_own(assignment, own_val, config.val)
        return Split(assignment, 0, f"validation on {config.val}")
    total = int(records["bytes"][kept].sum())
    fraction = config.val_fraction or default_val_bytes(total) / total
    if config.split == "document":
        chosen = choose_by_hash(records[kept], int(fraction * total), seed)
        if chosen is not None:
            assignment[kept[chosen]] = VAL
            rule = f"{len(chosen):,} of {len(kept):,} documents, chosen by their hash"
            return Split(assignment, 0, rule)
    return cut_tail(records, kept, assignment, fraction, config.split)


def default_val_bytes(total: int) -> float:
    """10 % of the first 10 MB and 1 % of the rest, 20 MB at most: enough to measure by, and no more."""
    return min(0.1 * min(total, SMALL_CORPUS_BYTES) + 0.01 * max(0, total - SMALL_CORPUS_BYTES), MAX_VAL_BYTES)


def first_occurrences(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """For each 16-byte digest, given as two halves (N,), the index of its first occurrence: (N,)."""
    order = np.lexsort((low, high))  # stable: equal digests stay in their order
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)
    first = np.empty(len(order), dtype=np.int64)
    first[order] = order[is_new][np.cumsum(is_new) - 1]
    return first


def choose_by_hash(records: np.ndarray, target: int, seed: int) -> np.ndarray | None:
    """Indices of documents of about `target` bytes in all, drawn in the order of their keyed hash.

    Documents larger than `target` are passed over, so what is drawn lies between half the target and one and a half.
    None if the rest is too small for that: then whole documents cannot make the split.
    """
    hashes = mix(records["high"] ^ derive(np.zeros(1, dtype=np.uint64), seed))
    order = np.argsort(hashes, kind="stable")
    fitting = order[records["bytes"][order] <= target]
    sums = np.concatenate(([0], np.cumsum(records["bytes"][fitting].astype(np.int64))))
    count = int(np.searchsorted(sums, target, side="right")) - 1
    if count < len(fitting) and sums[count + 1] - target < target - sums[count]:
        count += 1
    if count == 0 or count == len(records) or sums[count] < target / 2:
        return None
    return fitting[:count]


def cut_tail(records: np.ndarray, kept: np.ndarray, assignment: np.ndarray, fraction: float, asked: str) -> Split:
    """The last `fraction` of the characters of the kept documents; of n characters int(n * (1 - fraction)) stay."""
    ends = np.cumsum(records["characters"][kept].astype(np.int64))
    total = int(ends[-1])
    if total < 2:
        raise DataError("the corpus holds a single character", "it takes two to train and to validate")
    place = min(max(int(total * (1 - fraction)), 1), total - 1)
    number = int(np.searchsorted(ends, place, side="right"))
    cut_at = place - (int(ends[number - 1]) if number else 0)
    assignment[kept[number:]] = VAL
    if cut_at:
        assignment[kept[number]] = CUT
    reason = ""
    if asked == "document":
        reason = ", the corpus being one document" if len(kept) == 1 else ", its documents being too few or too large"
    return Split(assignment, cut_at, f"the last {100 * (total - place) / total:.3g} % of the characters{reason}")


def check_own(assignment: np.ndarray, own_val: int, val: str) -> None:
    """Both the validation corpus and what is left of the training corpus must hold something."""
    if not (assignment[:own_val] == VAL).any():
        raise DataError(f"the validation corpus {val} holds no text", "check data.val")
    if not (assignment[own_val:] == TRAIN).any():
        overlap = int((assignment[own_val:] == OVERLAP).sum())
        reason = f"all its {overlap:,} documents are in {val} too" if overlap else "its documents are all empty"
        raise DataError(f"nothing is left to train on: {reason}", "give a training corpus that differs from data.val")
