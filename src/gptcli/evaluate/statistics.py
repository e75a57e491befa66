"""Corpus scores from sums, and their uncertainty. This module handles numbers only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gptcli.figures import Interval

RESAMPLES = 1000
Z_95 = 1.959964
"""The 97.5 % quantile of the normal distribution."""
T_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042, 2.040,
)  # fmt: skip
"""The 97.5 % quantile of Student's distribution with 1, 2, ... degrees of freedom; the last for more."""
LEAST_CALIBRATION_ROWS = 50
"""The number of predictions below which the expected calibration error is mostly noise: that of a perfectly calibrated
classifier with confidences spread evenly from 0.5 to 1 is 0.19 on average over 20 rows, 0.13 over 50, 0.03 over 1,000.
"""
CALIBRATION_SIMULATIONS = 200
UNSPACED_CHARACTER_BYTES = 3
"""UTF-8 bytes of nearly every character of scripts without spaces between words."""
MOST_UNSPACED = 1 / 3
"""The share of bytes in such scripts above which a text has no words."""
LONGEST_WORDS = 60
"""Mean bytes of a word with its space above which a text has no words but long strings (base64, DNA). English has 6,
Russian 13, Malayalam, with three bytes a letter, about 33."""
MAX_UNITS = 10_000
"""The number of units above which neighbours are pooled before resampling, to bound its time."""


@dataclass(frozen=True)
class Totals:
    r"""Sums over documents, and the scores that are ratios of them.

    Each ratio divides total by total (lm-eval's `weighted_perplexity` and `bits_per_byte`) and is no average over
    documents.

    Attributes:
        nats: the summed negative log-likelihood of `tokens` scored tokens.
        bytes: UTF-8 bytes of their text.
        words: words of their text, counted as in lm-eval: `len(re.split(r"\s+", text))`.
        unspaced: characters of scripts without spaces between words.
    """

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0
    words: int = 0
    documents: int = 0
    unspaced: int = 0

    @property
    def has_words(self) -> bool:
        """True if white space separates the words of this text, so that a perplexity of words is meaningful."""
        is_unspaced = self.unspaced * UNSPACED_CHARACTER_BYTES > MOST_UNSPACED * self.bytes
        return not is_unspaced and self.bytes <= LONGEST_WORDS * self.words

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """Perplexity per token."""
        return exponential(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of text."""
        return self.nats / self.bytes / math.log(2)

    @property
    def byte_perplexity(self) -> float:
        """Perplexity per byte of text."""
        return exponential(self.nats / self.bytes)

    @property
    def word_perplexity(self) -> float:
        """Perplexity per word."""
        return exponential(self.nats / self.words)


def exponential(value: float) -> float:
    """Return e^value, infinite above the largest float, as word perplexities of bad models are."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


@dataclass(frozen=True)
class Uncertainty:
    """The standard error and 95 % confidence interval of an estimate, and the units of its sample."""

    stderr: float
    low: float
    high: float
    unit: str

    @property
    def interval(self) -> Interval:
        """The lower and upper end."""
        return self.low, self.high

    def through(self, rising: Callable[[float], float]) -> Interval:
        """Return the interval of `rising(estimate)` for an increasing function."""
        return rising(self.low), rising(self.high)


def proportion(count: int, total: int, unit: str) -> Uncertainty:
    """Return the uncertainty of count / total for `total` > 0 independent trials.

    Wilson's score interval (Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927), which
    keeps about its 95 % for few trials too, and does not shrink to a point when all of them succeed or fail (Brown,
    Cai and DasGupta, Interval Estimation for a Binomial Proportion, 2001). The standard error is half its width over
    1.96.
    """
    share, z_squared = count / total, Z_95 * Z_95
    scale = 1 + z_squared / total
    centre = (share + z_squared / (2 * total)) / scale
    stderr = math.sqrt(share * (1 - share) / total + z_squared / (4 * total * total)) / scale
    # At the ends the formula gives 0 and 1 up to rounding.
    low = 0.0 if count == 0 else centre - Z_95 * stderr
    high = 1.0 if count == total else centre + Z_95 * stderr
    return Uncertainty(stderr, low, high, f"{total:,} {unit}")


def bootstrap_ratio(nats: np.ndarray, tokens: np.ndarray, unit: str, seed: int = 0) -> Uncertainty | None:
    """Return the uncertainty of sum(nats) / sum(tokens) when the units are a random sample.

    The percentile bootstrap of a ratio estimator (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
    chapters 6 and 13): units are drawn with replacement, numerator and denominator together. The generator is local,
    so that the same scores always give the same interval.

    Args:
        nats, tokens: (N,) sums of each unit; units without tokens are left out.
        unit: what the units are, in the plural, for people.

    Returns:
        None if fewer than two units have tokens, since one observation has no spread.
    """
    nats, tokens = nats[tokens > 0], tokens[tokens > 0]
    count = len(tokens)
    if count < 2:
        return None
    unit = f"{count:,} {unit}"
    if count > MAX_UNITS:
        edges = np.linspace(0, count, MAX_UNITS, endpoint=False).astype(np.int64)
        nats, tokens = np.add.reduceat(nats, edges), np.add.reduceat(tokens, edges)
        unit = f"{unit} in {MAX_UNITS:,} groups"
    generator = np.random.default_rng(seed)
    ratios = np.empty(RESAMPLES)
    for sample in range(RESAMPLES):
        drawn = generator.integers(len(tokens), size=len(tokens))
        ratios[sample] = nats[drawn].sum() / tokens[drawn].sum()
    low, high = np.percentile(ratios, (2.5, 97.5))
    return Uncertainty(float(ratios.std(ddof=1)), float(low), float(high), unit)


def mean_of_parts(values: Sequence[float], unit: str) -> Uncertainty | None:
    """Return the uncertainty of the mean of `values`, each measured on a consecutive part of equal size of a text.

    This is the method of batch means: Student's interval over the parts, which are so long that they are nearly
    independent, as single tokens or documents are not. For the difference of two models pass the differences of their
    parts.

    Args:
        unit: what the parts consist of, for people.

    Returns:
        None for fewer than two values.
    """
    count = len(values)
    if count < 2:
        return None
    stderr = float(np.std(values, ddof=1)) / math.sqrt(count)
    mean, half = float(np.mean(values)), T_95[min(count - 1, len(T_95)) - 1] * stderr
    return Uncertainty(stderr, mean - half, mean + half, f"{count} parts of {unit}")


@dataclass(frozen=True)
class CalibrationBin:
    """Predictions with a probability in (low, high], their mean probability, and the share of right ones."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def calibration_bins(confidences: np.ndarray, is_right: np.ndarray, bins: int = 15) -> tuple[CalibrationBin, ...]:
    """Return predictions of probability `confidences` (N,) in `bins` bins of equal width, without empty ones."""
    numbers = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    found = []
    for number in np.unique(numbers):
        inside = numbers == number
        found.append(
            CalibrationBin(
                low=float(number / bins),
                high=float((number + 1) / bins),
                count=int(inside.sum()),
                confidence=float(confidences[inside].mean()),
                accuracy=float(is_right[inside].mean()),
            )
        )
    return tuple(found)


def calibration_error(bins: tuple[CalibrationBin, ...]) -> float:
    """Return the expected calibration error: the mean distance of confidence and accuracy, weighted by predictions.

    Guo et al., On Calibration of Modern Neural Networks, 2017, equation 3. Few predictions in a bin bias it upwards,
    and resampling would bias it more, so that it has no interval. `calibration_noise` is its size by chance.
    """
    total = sum(found.count for found in bins)
    return sum(found.count / total * abs(found.accuracy - found.confidence) for found in bins)


def calibration_noise(confidences: np.ndarray, seed: int = 0) -> float:
    """Return the mean calibration error of a perfectly calibrated classifier with confidences (N,), by simulation."""
    generator = np.random.default_rng(seed)
    draws = (generator.random(len(confidences)) < confidences for _ in range(CALIBRATION_SIMULATIONS))
    return float(np.mean([calibration_error(calibration_bins(confidences, is_right)) for is_right in draws]))
