"""Measured numbers as text, with as many digits as their confidence interval supports."""

from __future__ import annotations

import math

Interval = tuple[float, float]
"""The lower and the upper end of a confidence interval."""

MOST_DECIMALS = 4
WITHOUT_INTERVAL = 2
"""Significant digits of an estimate without an interval. `gptcli eval` omits the interval only if fewer tokens are
scored than two blocks of a window; the standard error is then about a tenth of a nat even if tokens are independent."""
SCIENTIFIC_FROM = 1e6
"""Numbers from this size on are printed as 3.1e+18."""


def figure(value: float, interval: Interval | None) -> str:
    """Return `value` rounded so that half the width of its interval has two significant digits; at least one digit is
    shown.

    This is the rule of the Particle Data Group for standard errors, without its exception for large leading digits: a
    perplexity of 135.5253 between 124.9 and 147.0 is `136`, a loss of 2.2101 between 2.19 and 2.23 is `2.210`. Without
    an interval, `value` has two significant digits.
    """
    return rounded(value, last_place(value, interval))


def figure_with_interval(value: float, interval: Interval | None) -> str:
    """Return `136 (125 to 147)`, or the value alone without an interval."""
    if interval is None:
        return figure(value, None)
    place = last_place(value, interval)
    low, high = (rounded(end, place) for end in interval)
    return f"{rounded(value, place)} ({low} to {high})"


def scaled(interval: Interval | None, factor: float) -> Interval | None:
    """Return the interval of an estimate that is multiplied by `factor`, such as from nats to bits per byte."""
    return None if interval is None else (interval[0] * factor, interval[1] * factor)


def last_place(value: float, interval: Interval | None) -> int:
    """Return the power of ten of the last digit that is worth printing."""
    if interval is None:
        return magnitude(value) + 1 - WITHOUT_INTERVAL
    half = (interval[1] - interval[0]) / 2
    if not math.isfinite(half):
        return last_place(value, None)
    return magnitude(half) - 1 if half > 0 else -MOST_DECIMALS


def magnitude(value: float) -> int:
    """Return the power of ten of the first significant digit; 0 for 0 and for numbers that are not finite."""
    return math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0


def rounded(value: float, place: int) -> str:
    """Return `value` rounded at the digit of 10^place, or at its own first digit if that is lower."""
    if not math.isfinite(value):
        return str(value)
    place = min(max(place, -MOST_DECIMALS), magnitude(value))
    if abs(value) >= SCIENTIFIC_FROM:
        return f"{value:.{magnitude(value) - place}e}"
    return f"{round(value, -place):,.{max(0, -place)}f}"
