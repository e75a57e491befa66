"""Corpus scores from sums, and how sure they are. Numbers only: knows neither models, texts nor files."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
MAX_UNITS = 10_000
"""More units than this are pooled with their neighbours before resampling, which bounds the time and changes little."""


@dataclass(frozen=True)
class Totals:
    """Sums over documents, and the scores that are ratios of them.

    `nats` is the summed negative log-likelihood of `tokens` scored tokens; `bytes` (UTF-8) and `words` are of the text
    they stand for, words counted as lm-eval does: `len(re.split(r"\\s+", text))`. Each ratio divides total by total
    (lm-eval's `weighted_perplexity` and `bits_per_byte`), never averages over documents.
    """

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0
    words: int = 0
    documents: int = 0

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        return exponential(self.loss)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / self.bytes / math.log(2)

    @property
    def byte_perplexity(self) -> float:
        return exponential(self.nats / self.bytes)

    @property
    def word_perplexity(self) -> float:
        return exponential(self.nats / self.words)


def exponential(value: float) -> float:
    """e^value, infinite where that is more than a float holds (word perplexities of bad models are)."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


@dataclass(frozen=True)
class Uncertainty:
    """Of a loss in nats per token: standard error, 95 % confidence interval, and what was resampled."""

    stderr: float
    low: float
    high: float
    unit: str


def bootstrap_ratio(nats: np.ndarray, tokens: np.ndarray, unit: str, seed: int = 0) -> Uncertainty | None:
    """Uncertainty of sum(nats) / sum(tokens) when the units are a sample of all that there might be.

    The percentile bootstrap of a ratio estimator (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
    chapters 6 and 13): units are drawn with replacement, numerator and denominator together. The generator is the
    function's own, so the same scores always give the same interval.

    Args:
        nats, tokens: (N,) sums of each unit; units without tokens say nothing and are left out.
        unit: what the units are, in the plural, for the person who reads the result.

    Returns:
        None where fewer than two units have tokens: one observation says nothing about its spread.
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


@dataclass(frozen=True)
class CalibrationBin:
    """Predictions whose probability lies in (low, high], their mean probability, and how many of them were right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def calibration_bins(confidences: np.ndarray, is_right: np.ndarray, bins: int = 15) -> tuple[CalibrationBin, ...]:
    """Predictions of probability `confidences` (N,) in `bins` bins of equal width; bins without one are left out."""
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
    """The expected calibration error: how far confidence and accuracy lie apart, weighted by the predictions in a bin.

    Guo et al., On Calibration of Modern Neural Networks, 2017, equation 3. Few predictions in a bin make it larger than
    it is, so that it has no interval: resampling them would move it further up.
    """
    total = sum(found.count for found in bins)
    return sum(found.count / total * abs(found.accuracy - found.confidence) for found in bins)
