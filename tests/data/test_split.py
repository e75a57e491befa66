"""The split: no document in both parts, the right fraction, never an empty part."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import numpy as np
import pytest

from gptcli.data.config import DataConfig
from gptcli.data.groups import Groups
from gptcli.data.split import (
    BLANK,
    CUT,
    DUPLICATE,
    OVERLAP,
    RECORD,
    TRAIN,
    VAL,
    Split,
    default_val_bytes,
    split_documents,
)
from gptcli.errors import DataError


def records_of(sizes: list[int], seed: int = 0) -> np.ndarray:
    """Return distinct documents of these sizes."""
    generator = np.random.default_rng(seed)
    records = np.zeros(len(sizes), dtype=RECORD)
    records["high"] = generator.integers(2**63, size=len(sizes))
    records["low"] = generator.integers(2**63, size=len(sizes))
    records["bytes"] = records["characters"] = sizes
    return records


def split_of(records: np.ndarray, own_val: int, config: DataConfig, seed: int) -> Split:
    """Return the split of a few documents, of which only equal ones belong together."""
    assignment = np.zeros(len(records), dtype=np.uint8)
    return split_documents(records, own_val, config, seed, assignment, Groups(Path(tempfile.gettempdir())))


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("seed", range(20))
def test_document_split_comes_near_the_fraction_with_documents_of_any_sizes(seed: int, fraction: float) -> None:
    generator = random.Random(seed)
    sizes = [int(generator.lognormvariate(6, 1.5)) + 1 for _ in range(generator.randrange(1, 300))]
    records = records_of(sizes, seed)
    split = split_of(records, 0, DataConfig(val_fraction=fraction), seed)
    val = records["bytes"][split.assignment == VAL].sum()
    if (split.assignment == CUT).any():
        val += records["bytes"][split.assignment == CUT][0] - split.cut_at
    assert fraction / 2 - 2 / sum(sizes) <= val / sum(sizes) <= fraction * 1.5 + 2 / sum(sizes)
    assert (split.assignment != VAL).any()


def test_document_split_of_many_documents_is_by_hash_and_stays_with_the_document() -> None:
    """Where a document lies, and what is before it, does not matter to which part it is in."""
    records = records_of([100] * 5000)
    config = DataConfig(val_fraction=0.1)
    assignment = split_of(records, 0, config, 5).assignment
    assert (assignment == VAL).sum() == 500
    order = np.random.default_rng(1).permutation(5000)
    assert np.array_equal(split_of(records[order], 0, config, 5).assignment, assignment[order])
    fewer = split_of(records[:4900], 0, config, 5).assignment
    assert (fewer != assignment[:4900]).sum() < 40
    other = split_of(records, 0, config, 6).assignment
    assert 20 < ((assignment == VAL) & (other == VAL)).sum() < 90  # 50 by chance


@pytest.mark.parametrize("sizes", [[7], [2], [10_000_000, 10], [10, 10_000_000], [100, 100], [1, 1], [5, 5, 5]])
@pytest.mark.parametrize("mode", ["document", "tail"])
def test_few_documents_still_leave_both_parts_something(sizes: list[int], mode: str) -> None:
    split = split_of(records_of(sizes), 0, DataConfig(split=mode), 0)
    assert set(split.assignment.tolist()) in ({CUT}, {TRAIN, VAL}, {TRAIN, CUT}, {CUT, VAL}, {TRAIN, CUT, VAL})


@pytest.mark.parametrize("seed", range(30))
def test_tail_takes_exactly_the_last_characters_of_the_kept_documents(seed: int) -> None:
    generator = random.Random(seed)
    sizes = [generator.randrange(0, 30) for _ in range(12)] + [5]
    records = records_of(sizes, seed)
    records[4] = records[2]
    fraction = generator.choice([0.1, 0.25, 0.5])
    split = split_of(records, 0, DataConfig(split="tail", val_fraction=fraction), 0)
    labels = []
    for number, size in enumerate(records["characters"].tolist()):
        if number == 4 or size == 0:
            continue
        kind = split.assignment[number]
        labels += [kind == VAL or (kind == CUT and place >= split.cut_at) for place in range(size)]
    kept = int(len(labels) * (1 - fraction))
    assert labels == [False] * kept + [True] * (len(labels) - kept)


def test_dropped_documents_are_told_apart() -> None:
    records = records_of([10] * 40)
    records[7] = records[3]
    records["characters"][9] = 0
    assignment = split_of(records, 0, DataConfig(), 0).assignment
    assert assignment[7] == DUPLICATE and assignment[9] == BLANK and assignment[3] in (TRAIN, VAL)
    assert np.isin(np.delete(assignment, [7, 9]), (TRAIN, VAL)).all()


def test_documents_of_an_own_validation_corpus_are_dropped_from_training() -> None:
    records = records_of([10] * 12)
    records[1] = records[0]  # twice in the validation corpus (the first 4)
    records[6] = records[2]  # in both
    records[9] = records[8]  # twice in the training corpus
    assignment = split_of(records, 4, DataConfig(val="own.txt"), 0).assignment
    expected = [VAL, DUPLICATE, VAL, VAL, TRAIN, TRAIN, OVERLAP, TRAIN, TRAIN, DUPLICATE, TRAIN, TRAIN]
    assert assignment.tolist() == expected


def test_an_empty_part_is_an_error() -> None:
    config = DataConfig(val="own.txt")
    with pytest.raises(DataError, match=r"its only document is in own\.txt too"):
        split_of(np.repeat(records_of([10]), 2), 1, config, 0)
    with pytest.raises(DataError, match=r"the validation corpus own\.txt holds no text"):
        split_of(records_of([0, 10]), 1, config, 0)
    with pytest.raises(DataError, match="single character"):
        split_of(records_of([1]), 0, DataConfig(), 0)


def test_default_fraction_is_a_tenth_of_a_small_corpus_and_less_of_a_large_one() -> None:
    assert default_val_bytes(1_000_000) == pytest.approx(100_000)
    assert default_val_bytes(10_000_000) == pytest.approx(1_000_000)
    assert default_val_bytes(100_000_000) == pytest.approx(1_900_000)
    assert default_val_bytes(10**12) == 20_000_000
    sizes = np.logspace(3, 12, 50)
    assert (np.diff([default_val_bytes(int(size)) for size in sizes]) >= 0).all()
