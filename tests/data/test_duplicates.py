"""Duplicates are those that a dictionary finds, with any number of pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gptcli.data import arrays, duplicates
from gptcli.data.duplicates import later_occurrences
from gptcli.data.split import RECORD


def few_digests(count: int) -> np.ndarray:
    """Return records of which many have equal digests, and many equal halves."""
    generator = np.random.default_rng(0)
    records = np.zeros(count, dtype=RECORD)
    for half in ("high", "low"):
        records[half] = generator.integers(0, 40, count).astype(np.uint64) << np.uint64(58)
    return records


@pytest.mark.parametrize(("at_once", "sorted_at_once"), [(1 << 20, 1 << 20), (100, 256), (7, 64), (1000, 1)])
def test_later_occurrences_are_those_of_a_dictionary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, sorted_at_once: int
) -> None:
    monkeypatch.setattr(arrays, "AT_ONCE", at_once)
    monkeypatch.setattr(duplicates, "SORTED_AT_ONCE", sorted_at_once)
    few_digests(3000).tofile(tmp_path / "records")
    records = np.memmap(tmp_path / "records", dtype=RECORD, mode="r")
    seen: dict[tuple[int, int], int] = {}
    pairs = zip(records["high"].tolist(), records["low"].tolist(), strict=True)
    firsts = [seen.setdefault(pair, place) for place, pair in enumerate(pairs)]
    found: dict[int, int] = {}
    for places, first in later_occurrences(records, tmp_path):
        assert (np.diff(places) > 0).all()
        found |= dict(zip(places.tolist(), first.tolist(), strict=True))
    assert found == {place: first for place, first in enumerate(firsts) if first < place}
    assert [path.name for path in tmp_path.iterdir()] == ["records"]
