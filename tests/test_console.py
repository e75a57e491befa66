"""What is said to people in figures."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios

import pytest

from gptcli import console
from gptcli.console import Progress, duration, quantity, rounded, size


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999.4e6, "999 MB"), (999.7e6, "1 GB"), (2.095e12, "2.1 TB")],
)
def test_a_size_has_three_digits_and_never_a_thousand_of_a_prefix(count: float, words: str) -> None:
    assert size(count) == words


def test_a_duration_is_said_in_the_units_that_it_lasts() -> None:
    assert [duration(seconds) for seconds in (0.84, 42, 200, 18_720)] == ["0.8 s", "42 s", "3 min 20 s", "5 h 12 min"]


def test_one_thing_has_no_plural() -> None:
    assert [quantity(number, "layer") for number in (0, 1, 1200)] == ["0 layers", "1 layer", "1,200 layers"]


def test_a_rounded_number_has_no_power_of_ten() -> None:
    assert [rounded(value) for value in (0.0312, 5.27, 99.4, 531.0, 12400.0)] == ["0.031", "5.3", "99", "531", "12,400"]


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


def test_a_bar_of_80_columns_shows_both_losses_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pseudo-terminal of that width, at the end of a long run, where the counts are widest."""
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    figures = {"loss": "2.311", "val loss": "2.415", "tokens/s": "123,456"}
    with os.fdopen(terminal, "w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        with Progress("train", 10000, unit="steps", initial=9000) as progress:
            progress.update(1, **figures)
            progress.bar.refresh()
            stderr.flush()
            shown = ""
            while "loss" not in shown.split("\r")[-1]:  # a terminal may give what was written in parts
                assert select.select([main], [], [], 10)[0], shown
                shown += os.read(main, 10_000).decode(errors="replace")
            shown = shown.split("\r")[-1]
    os.close(main)
    assert "loss 2.311, val loss 2.415" in shown
    assert len(shown) <= 80
    assert "tokens/s" not in shown
    assert progress.shown_figures(140) == "loss 2.311, val loss 2.415, tokens/s 123,456"
