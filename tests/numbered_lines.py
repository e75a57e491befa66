"""A small text for trainings, most of which can be predicted."""

from __future__ import annotations


def numbered_lines(count: int) -> str:
    """Return `line 1: the dog counts 1.` and so on."""
    return "".join(f"line {n}: the {('cat', 'dog', 'owl')[n % 3]} counts {n * n}.\n" for n in range(count))
