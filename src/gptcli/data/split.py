"""The split of documents into those trained on, validated on and dropped, decided from a few numbers a document.

Exact duplicates are dropped first, so that no validation document can occur in the training split; documents that are
kept and belong together stay in one split. Then either whole documents or groups are drawn by their hash, or the last
characters of the corpus are taken. The digests and sizes are read a stretch at a time, so that there may be more
documents than fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from gptcli.data.arrays import AT_ONCE, release_memory, stretches
from gptcli.data.config import DataConfig
from gptcli.data.duplicates import later_occurrences
from gptcli.data.groups import Groups
from gptcli.data.permutation import derive, mix
from gptcli.errors import DataError

RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("bytes", "<u8"), ("characters", "<u8")])
"""The record of a document in a scan: its 16-byte digest, and its size; a blank document has 0 characters."""

TRAIN, VAL, DUPLICATE, BLANK, OVERLAP, CUT = range(6)
"""The values of an assignment. OVERLAP: dropped from training since it is in the validation corpus; CUT: the first part
is trained on and the rest validated on."""

BUCKET_BITS = 16
BUCKETS = 1 << BUCKET_BITS

SMALL_CORPUS_BYTES = 10_000_000
MAX_VAL_BYTES = 20_000_000


class Split(NamedTuple):
    """The assignment of all documents, (documents,) uint8; the one CUT document is cut before character `cut_at`."""

    assignment: np.ndarray
    cut_at: int
    rule: str
    """The rule that was applied, in words."""


def split_documents(
    records: np.ndarray, own_val: int, config: DataConfig, seed: int, assignment: np.ndarray, groups: Groups
) -> Split:
    """Assign every document; records (documents,) of RECORD, the first `own_val` of them from `data.val`.

    Args:
        assignment: The array for the result, (documents,) uint8 zeros; a mapped file if it does not fit in memory.
        groups: The documents that must be in one split.

    Raises:
        DataError: One of the two splits would be empty.
    """
    drop(records, own_val, assignment, groups)
    groups.measure(records, assignment)
    if config.val is not None:
        for start, kinds in stretches(assignment):
            own = kinds[: max(0, own_val - start)]
            own[own == TRAIN] = VAL
        check_own(assignment, own_val, config.val)
        return Split(assignment, 0, f"validation on {config.val}")
    count, total = kept_sums(records, assignment, "bytes")
    fraction = config.val_fraction or default_val_bytes(total) / total
    if config.split == "document":
        chosen = choose_by_hash(records, assignment, groups, int(fraction * total), seed)
        if chosen:
            return Split(assignment, 0, f"{chosen:,} of {count:,} documents, chosen by their hash")
    return cut_tail(records, assignment, groups, fraction, config)


def default_val_bytes(total: int) -> float:
    """Return 10 % of the first 10 MB and 1 % of the rest, 20 MB at most, which is enough for a measurement."""
    return min(0.1 * min(total, SMALL_CORPUS_BYTES) + 0.01 * max(0, total - SMALL_CORPUS_BYTES), MAX_VAL_BYTES)


def drop(records: np.ndarray, own_val: int, assignment: np.ndarray, groups: Groups) -> None:
    """Mark duplicates, blank documents, and those that are in the validation corpus too, or nearly so."""
    if not groups.keeps_duplicates:
        for places, firsts in later_occurrences(records, groups.folder):
            in_both = (firsts < own_val) & (places >= own_val)
            for start in range(0, len(places), AT_ONCE):
                some = slice(start, start + AT_ONCE)
                assignment[places[some]] = np.where(in_both[some], OVERLAP, DUPLICATE)
                release_memory(assignment)
    for start, some, kinds in stretches(records, assignment):
        kinds[some["characters"] == 0] = BLANK
        kept = start + np.flatnonzero(kinds == TRAIN)
        kinds[kept[(kept >= own_val) & (groups.firsts(kept) < own_val)] - start] = OVERLAP


def kept_sums(records: np.ndarray, assignment: np.ndarray, field: str) -> tuple[int, int]:
    """Return the number of kept documents, and the sum of `field` over them."""
    count = total = 0
    for _, some, kinds in stretches(records, assignment):
        kept = some[field][kinds == TRAIN]
        count += len(kept)
        total += int(kept.sum())
    return count, total


def choose_by_hash(records: np.ndarray, assignment: np.ndarray, groups: Groups, target: int, seed: int) -> int:
    """Mark documents of about `target` bytes in all for validation, by their keyed hash, and return their number.

    Groups larger than `target` are skipped, so the chosen size lies between half the target and one and a half. The
    number is 0 if the other documents are too small for that: then whole documents cannot make the split.
    """
    count, _ = kept_sums(records, assignment, "bytes")
    fitting = partial(hashed, records, assignment, groups, target, seed)
    sizes_of, numbers_of = np.zeros((2, BUCKETS), dtype=np.int64)
    for _, hashes, sizes in fitting():
        sizes_of += np.bincount(bucket(hashes), sizes, BUCKETS).astype(np.int64)
        numbers_of += np.bincount(bucket(hashes), minlength=BUCKETS)
    # The bucket that reaches the target.
    last = min(int(np.searchsorted(np.cumsum(sizes_of), target, side="right")), BUCKETS - 1)
    near = [tuple(values[bucket(some[1]) == last] for values in some) for some in fitting()]
    places, hashes, sizes = (np.concatenate(values) for values in zip(*near, strict=True))
    order = np.argsort(hashes, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(hashes[order])) + 1, len(order))  # of groups, whose hash is the same
    edges = np.concatenate(([0], ends[: len(order)]))
    sums = sizes_of[:last].sum() + np.concatenate(([0], np.cumsum(sizes[order].astype(np.int64))))[edges]
    more = max(0, int(np.searchsorted(sums, target, side="right")) - 1)
    if more < len(edges) - 1 and sums[more + 1] - target < target - sums[more]:
        more += 1
    taken = int(edges[more])
    chosen = int(numbers_of[:last].sum()) + taken
    if chosen in (0, count) or sums[more] < target / 2:
        return 0
    for some, hashes, _ in fitting():
        assignment[some[bucket(hashes) < last]] = VAL
    assignment[places[order[:taken]]] = VAL
    return chosen


def hashed(
    records: np.ndarray, assignment: np.ndarray, groups: Groups, largest: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (places, keyed hashes, bytes) of the kept documents whose groups have at most `largest` bytes."""
    key = derive(np.zeros(1, dtype=np.uint64), seed)
    for start, some, kinds in stretches(records, assignment):
        kept = np.flatnonzero(kinds == TRAIN)
        kept = kept[groups.bytes(start + kept, some["bytes"][kept]) <= largest]
        yield start + kept, mix(groups.keys(start + kept, some["high"][kept]) ^ key), some["bytes"][kept]


def bucket(hashes: np.ndarray) -> np.ndarray:
    """Return the leading bits of hashes (N,) uint64, as numbers below BUCKETS."""
    return (hashes >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)


def cut_tail(records: np.ndarray, assignment: np.ndarray, groups: Groups, fraction: float, config: DataConfig) -> Split:
    """Mark the last `fraction` of the characters for validation; the first int(n * (1 - fraction)) of n are trained on.

    Documents in groups of several are all trained on, and the tail is that of the other documents.
    """
    count, total = kept_sums(records, assignment, "characters")
    if total < 2:
        raise DataError("the corpus holds a single character", "it takes two to train and to validate")
    place = min(max(int(total * (1 - fraction)), 1), total - 1)
    grouped = total - sum(
        int(some[kept]["characters"].sum()) for _, some, _, kept in alone(records, assignment, groups)
    )
    if grouped == total:
        raise DataError(
            f"no document can be validated on: each has another like it (data.deduplicate={config.deduplicate})",
            "validate on another text: --set data.val=PATH",
        )
    place = max(place - grouped, 0)
    before = cut_at = 0
    for _, some, kinds, kept in alone(records, assignment, groups):
        ends = before + np.cumsum(some["characters"][kept].astype(np.int64))
        number = int(np.searchsorted(ends, place, side="right"))
        kinds[kept[number:]] = VAL
        if number < len(kept) and before <= place:  # the document in which the place lies
            cut_at = place - (int(ends[number - 1]) if number else before)
            if cut_at:
                kinds[kept[number]] = CUT
        before = int(ends[-1]) if len(ends) else before
    reason = ", of documents with no other like them" if grouped else ""
    if config.split == "document":
        reason += ", the corpus being one document" if count == 1 else ", its documents being too few or too large"
    part = 100 * (total - grouped - place) / total
    return Split(assignment, cut_at, f"the last {part:.3g} % of the characters{reason}")


def alone(
    records: np.ndarray, assignment: np.ndarray, groups: Groups
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the stretches of both arrays, each with the places of the kept documents that are alone in their groups."""
    for start, some, kinds in stretches(records, assignment):
        kept = np.flatnonzero(kinds == TRAIN)
        yield start, some, kinds, kept[groups.are_alone(start + kept)]


def check_own(assignment: np.ndarray, own_val: int, val: str) -> None:
    """Raise a DataError unless both the validation corpus and the rest of the training corpus hold text."""
    kinds = np.zeros((2, CUT + 1), dtype=np.int64)
    for start, some in stretches(assignment):
        edge = min(max(0, own_val - start), len(some))
        kinds += [np.bincount(part, minlength=CUT + 1) for part in (some[:edge], some[edge:])]
    if not kinds[0, VAL]:
        raise DataError(f"the validation corpus {val} holds no text", "check data.val")
    if not kinds[1, TRAIN]:
        overlap = int(kinds[1, OVERLAP])
        where = f"its only document is in {val}" if overlap == 1 else f"all its {overlap:,} documents are in {val}"
        reason = f"{where} too" if overlap else "its documents are all empty"
        raise DataError(f"nothing is left to train on: {reason}", "give a training corpus that differs from data.val")
