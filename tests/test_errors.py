"""A message is one line of a length that a person can read, whatever was typed."""

from __future__ import annotations

from gptcli.errors import LONGEST_PART, UsageError


def test_a_message_that_repeats_a_whole_text_is_shortened_in_the_middle() -> None:
    error = UsageError(f"the name {'x' * 10_000} is wrong", "give\na name")
    assert len(str(error)) < LONGEST_PART and str(error).startswith("the name xxx")
    assert str(error).endswith("xxx is wrong; give a name")


def test_a_message_with_a_long_path_is_whole() -> None:
    path = "/long" * 300
    assert str(UsageError(f"{path} is missing")) == f"{path} is missing"
