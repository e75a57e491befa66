"""Figures have the digits that their intervals support, and no more."""

from __future__ import annotations

import math

import pytest

from gptcli.figures import figure, figure_with_interval


@pytest.mark.parametrize(
    ("value", "interval", "shown"),
    [
        (135.5253, (124.9, 147.0), "136 (125 to 147)"),
        (2.2101, (2.19, 2.23), "2.210 (2.190 to 2.230)"),
        (0.9225, (0.892, 0.945), "0.922 (0.892 to 0.945)"),
        (1.0, (0.342, 1.0), "1.00 (0.34 to 1.00)"),
        (48_213.7, (45_204.2, 51_333.0), "48,200 (45,200 to 51,300)"),
        (3.0834e18, (2.1e17, 4.5e19), "3e+18 (2e+17 to 4.5e+19)"),
        (12_345_678.0, (12_300_000.0, 12_400_000.0), "1.2346e+07 (1.2300e+07 to 1.2400e+07)"),
        (30.0, (1.2, 6_000.0), "30 (1 to 6,000)"),  # at least one digit of every number
        (2.5, (2.5, 2.5), "2.5000 (2.5000 to 2.5000)"),
        (2.512345, (2.5123449, 2.5123451), "2.5123 (2.5123 to 2.5123)"),  # never more than four decimals
        (2.51, (2.0, math.inf), "2.5 (2.0 to inf)"),
        (135.5253, None, "140"),
        (2.2101, None, "2.2"),
        (0.0, None, "0.0"),
        (math.nan, None, "nan"),
        (math.inf, (1.0, math.inf), "inf (1.0 to inf)"),
    ],
)
def test_a_figure_has_the_digits_of_its_interval(
    value: float, interval: tuple[float, float] | None, shown: str
) -> None:
    assert figure_with_interval(value, interval) == shown
    assert figure(value, interval) == shown.split(" ")[0]
