"""Every option and argument that is a number has bounds: on the command line, or as a key of a configuration."""

from __future__ import annotations

import pytest
import typer

from faults.options import Number, numbers_of
from gptcli.cli.app import app
from gptcli.generate.config import GenerationConfig
from gptcli.serve.settings import ServeSettings

CONFIGURED = {"generate": GenerationConfig, "chat": GenerationConfig, "serve": ServeSettings}
VALIDATED_AS_KEYS = {
    *((verb, f"--{key.replace('_', '-')}") for verb, config in CONFIGURED.items() for key in config.model_fields),
    ("tokenizer train", "--vocab-size"),
    ("tokenizer train", "--min-frequency"),
}
"""Options whose values become values of a configuration, which has the bounds."""
NUMBERS = list(numbers_of(typer.main.get_command(app)))


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: " ".join(number[:2]))
def test_an_option_that_is_a_number_has_bounds(number: Number) -> None:
    if (number.verb, number.name) not in VALIDATED_AS_KEYS:
        assert number.least is not None and number.most is not None


def test_there_are_such_options() -> None:
    assert len(NUMBERS) >= 50 and {number.kind for number in NUMBERS} == {int, float}
