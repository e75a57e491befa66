"""Tables are aligned for a terminal and valid Markdown, and figures have three digits."""

from __future__ import annotations

from pathlib import Path

import pytest

from gptcli.report.bench.tables import Table, figure, percent, shown, times

TABLE = Table("Heading", ("", "tokens/s"), [("gptcli", "284"), ("a longer name", "1,650")], ["A note."])


def test_a_terminal_sees_names_to_the_left_and_figures_to_the_right() -> None:
    assert TABLE.text() == (
        "Heading\n\n               tokens/s\ngptcli              284\na longer name     1,650\n\nA note."
    )


def test_markdown_has_a_rule_under_the_columns() -> None:
    lines = TABLE.markdown().splitlines()
    assert lines[0] == "### Heading"
    assert lines[2:5] == ["|  | tokens/s |", "| --- | ---: |", "| gptcli | 284 |"]
    assert lines[-1] == "A note."


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (28.44, "28.4"),
        (0.04213, "0.0421"),
        (26634.0, "26,600"),
        (1.0, "1.00"),
        (0.0, "0"),
        (None, "-"),
        (-2.5, "-2.50"),
    ],
)
def test_figures_have_three_digits(value: float | None, shown: str) -> None:
    assert figure(value) == shown


def test_ratios_show_their_extremes() -> None:
    assert times({"median": 1.618, "low": 1.5, "high": 1.7}) == "1.62x (1.50 to 1.70)"
    assert percent(0.704) == "70 %"
    assert figure(2.5, "s") == "2.50 s"


def test_a_heading_has_the_last_part_of_a_path(tmp_path: Path) -> None:
    (tmp_path / "book.txt").touch()
    assert shown([str(tmp_path / "book.txt"), "python:stdlib", "hf:a/b"]) == "book.txt python:stdlib hf:a/b"
