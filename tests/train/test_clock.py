"""Durations as people write them, and the age of the process."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from gptcli.errors import UsageError
from gptcli.train.clock import Clock, parse_duration, process_began


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[("90s", 90), ("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("1h 2m 3s", 3723), ("2M", 120), ("0.5s", 0.5)],
        *[("5min", 300), ("1d", 86400), ("2 hours 30 mins", 9000), ("1 day", 86400), ("45 sec", 45)],
    ],
)
def test_a_duration_is_read_as_people_write_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "10", "ten minutes", "0s", "0m", "-5m", "5 parsecs", "10m1h", "1e3s", "nan", "s", "999999d"]
)
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match="90s, 10m, 1h30m or 1d"):
        parse_duration(text)


def test_a_process_knows_when_it_began() -> None:
    code = "from gptcli.train.clock import process_began; import time; print(time.monotonic() - process_began())"
    before = time.monotonic()
    ages = [float(subprocess.check_output([sys.executable, "-c", f"{wait}{code}"])) for wait in WAITS]
    assert 0 <= ages[0] <= time.monotonic() - before
    assert ages[1] >= 1.0
    assert process_began() < before


WAITS = ("", "import time; time.sleep(1); ")


def test_a_clock_counts_from_where_it_began() -> None:
    clock = Clock(60.0, began=100.0, now=lambda: 130.0)
    assert (clock.spent(), clock.remaining()) == (30.0, 30.0)
