"""Biases of tokens as a command line names them. It imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from gptcli.errors import UsageError


def read_biases(given: Sequence[str]) -> dict[int, float]:
    """Return the number of each id in texts of the form ID=VALUE.

    Raises:
        UsageError: a text has another form, or an id occurs twice.
    """
    biases: dict[int, float] = {}
    for text in given:
        token, _, value = text.partition("=")
        try:
            number = int(token), float(value)
        except ValueError as error:
            raise UsageError(
                f"--logit-bias {text!r} is not an id and a number", "write ID=VALUE, such as 50256=-100"
            ) from error
        if number[0] in biases:
            raise UsageError(f"--logit-bias names the id {number[0]} twice", "give it once")
        biases[number[0]] = number[1]
    return biases
