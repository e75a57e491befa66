"""Values that no section of a configuration accepts, whatever its keys."""

from __future__ import annotations

import pytest

from gptcli.config import Config, RawConfig, check_keys, validate
from gptcli.config.base import LONGEST_NAME
from gptcli.errors import ConfigError


class Section(Config):
    """A section."""

    FREE_TEXTS = frozenset(("text",))

    number: float = 1.0
    numbers: tuple[float, ...] = ()
    count: int = 1
    name: str = "x"
    names: tuple[str, ...] = ()
    text: str = ""


class Whole(Config):
    """A configuration with a table."""

    section: Section = Section()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"number": float("inf")}, "section.number: input should be a finite number"),
        ({"number": float("nan")}, "section.number: input should be a finite number"),
        ({"number": 1e308}, "section.number: 1e[+]308 is too large for 32-bit"),
        ({"number": -1e39}, "section.number: -1e[+]39 is too large for 32-bit"),
        ({"number": 1e-320}, "section.number: 9.9.*e-321 is too small for 32-bit"),
        ({"numbers": [1.0, 1e-39]}, "section.numbers: 1e-39 is too small"),
        ({"count": 10**25}, "section.count: whole numbers have 64 bits"),
        ({"name": "x" * (LONGEST_NAME + 1)}, "section.name: the text has 4,097 characters"),
        ({"names": ["x", "a\0b"]}, "section.names: the text holds a NUL character"),
    ],
)
def test_what_nothing_can_compute_with_or_open_is_refused_by_its_key(values: dict, words: str) -> None:
    raw = RawConfig({"section": values})
    for read in (validate, check_keys):  # the second one overlooks combinations of values only
        with pytest.raises(ConfigError, match=words):
            read(Whole, raw)


def test_zero_the_limits_and_long_texts_are_accepted() -> None:
    values = {"number": 0.0, "numbers": [2.0**-126, -3.4e38], "name": "x" * LONGEST_NAME, "text": "a\0b" * 10_000}
    assert validate(Whole, RawConfig({"section": values})).section.text == "a\0b" * 10_000
