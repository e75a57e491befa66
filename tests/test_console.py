"""What is said to people in figures."""

from __future__ import annotations

import pytest

from gptcli.console import duration, size


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999.4e6, "999 MB"), (999.7e6, "1 GB"), (2.095e12, "2.1 TB")],
)
def test_a_size_has_three_digits_and_never_a_thousand_of_a_prefix(count: float, words: str) -> None:
    assert size(count) == words


def test_a_duration_is_said_in_the_units_that_it_lasts() -> None:
    assert [duration(seconds) for seconds in (0.84, 42, 200, 18_720)] == ["0.8 s", "42 s", "3 min 20 s", "5 h 12 min"]
