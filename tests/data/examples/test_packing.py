"""Units are packed whole, each once, in few rows, always in the same way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcli.data.examples.packing import pack

CAPACITY = 32


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, CAPACITY), min_size=1, max_size=200))
def test_every_unit_is_in_one_row_and_no_row_is_too_long(lengths: list[int]) -> None:
    units = np.array(lengths)
    rows = pack(units, CAPACITY)
    assert sorted(rows.units.tolist()) == list(range(len(units)))
    filled = [int(units[rows.row(number)].sum()) for number in range(len(rows))]
    assert max(filled) <= CAPACITY and min(filled) >= 1
    assert len(rows) <= 11 / 9 * lower_bound(units) + 1  # more than the fewest rows by no more than the proven bound
    again = pack(units, CAPACITY)
    assert np.array_equal(rows.units, again.units) and np.array_equal(rows.starts, again.starts)


def lower_bound(lengths: np.ndarray) -> float:
    """Return a number of rows that suffices for no packing with fewer: Martello and Toth's bound L2."""
    best = float(np.ceil(lengths.sum() / CAPACITY))
    for small in range(CAPACITY // 2 + 1):
        large = lengths[lengths > CAPACITY - small]
        middle = lengths[(lengths <= CAPACITY - small) & (lengths > CAPACITY / 2)]
        rest = lengths[(lengths >= small) & (lengths <= CAPACITY / 2)].sum()
        free = len(middle) * CAPACITY - middle.sum()
        best = max(best, len(large) + len(middle) + max(0, np.ceil((rest - free) / CAPACITY)))
    return best


def test_the_best_fit_is_chosen() -> None:
    """6 and 5 open rows of 10; 4 fits the first exactly, though the second has more space."""
    rows = pack(np.array([4, 6, 5]), 10)
    assert [sorted(rows.row(number).tolist()) for number in range(len(rows))] == [[0, 1], [2]]


def test_units_that_fit_no_row_are_an_error() -> None:
    for lengths in ([11], [0]):
        with pytest.raises(ValueError, match="do not fit"):
            pack(np.array(lengths), 10)
