"""What is said to people in figures."""

from __future__ import annotations

import pytest

from gptcli import console
from gptcli.console import Progress, duration, size


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999.4e6, "999 MB"), (999.7e6, "1 GB"), (2.095e12, "2.1 TB")],
)
def test_a_size_has_three_digits_and_never_a_thousand_of_a_prefix(count: float, words: str) -> None:
    assert size(count) == words


def test_a_duration_is_said_in_the_units_that_it_lasts() -> None:
    assert [duration(seconds) for seconds in (0.84, 42, 200, 18_720)] == ["0.8 s", "42 s", "3 min 20 s", "5 h 12 min"]


def test_what_comes_before_the_first_update_is_no_measure_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with Progress("train", 100, unit="steps", interval=1e9) as progress:
        now = 40.0  # the first step was compiled
        progress.update(1)
        assert progress.line() == "train 1/100 steps, 40 s gone"
        now = 42.0
        progress.update(1)
        assert progress.line() == "train 2/100 steps, 42 s gone, 3 min 16 s left"
