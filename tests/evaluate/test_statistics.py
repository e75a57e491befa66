"""Ratios of totals, and bootstrap intervals against closed forms and known coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gptcli.evaluate import statistics
from gptcli.evaluate.statistics import (
    Totals,
    bootstrap_ratio,
    calibration_bins,
    calibration_error,
    calibration_noise,
    mean_of_parts,
    proportion,
)


def test_scores_are_ratios_of_totals() -> None:
    totals = Totals(nats=120.0, tokens=60, bytes=240, words=40, documents=2)
    assert totals.loss == 2.0
    assert totals.perplexity == pytest.approx(math.e**2)
    assert totals.bits_per_byte == pytest.approx(0.5 / math.log(2))
    assert totals.byte_perplexity == pytest.approx(2**totals.bits_per_byte)
    assert totals.word_perplexity == pytest.approx(math.e**3)


def test_a_perplexity_beyond_a_float_is_infinite() -> None:
    assert Totals(nats=5000.0, tokens=500, bytes=2000, words=1).word_perplexity == math.inf


def test_stderr_with_equal_denominators_is_that_of_a_mean() -> None:
    nats = np.random.default_rng(7).normal(300, 30, size=400)
    found = bootstrap_ratio(nats, np.full(400, 100), "documents")
    assert found is not None
    assert found.stderr == pytest.approx(nats.std() / math.sqrt(400) / 100, rel=0.1)
    mean = nats.mean() / 100
    assert (found.low - mean, found.high - mean) == pytest.approx((-1.96 * found.stderr, 1.96 * found.stderr), rel=0.15)


def test_stderr_of_a_ratio_agrees_with_its_linearisation() -> None:
    """Cochran, Sampling Techniques, 2.11: var(R) ~ sum((x - R t)^2) / (sum t)^2."""
    generator = np.random.default_rng(3)
    tokens = generator.integers(10, 500, size=500)
    nats = tokens * generator.normal(3, 0.4, size=500)
    ratio = nats.sum() / tokens.sum()
    expected = math.sqrt(((nats - ratio * tokens) ** 2).sum()) / tokens.sum()
    found = bootstrap_ratio(nats, tokens, "documents")
    assert found is not None
    assert found.stderr == pytest.approx(expected, rel=0.1)


def test_interval_covers_the_truth_about_95_times_in_100() -> None:
    generator = np.random.default_rng(11)
    covered = 0
    for _ in range(100):
        tokens = generator.integers(50, 150, size=60)
        found = bootstrap_ratio(tokens * 2.0 + generator.normal(0, 20, size=60), tokens, "documents")
        assert found is not None
        covered += found.low <= 2.0 <= found.high
    assert 85 <= covered <= 100


def test_same_scores_give_the_same_interval_and_another_seed_another() -> None:
    nats, tokens = np.arange(1.0, 21.0), np.full(20, 5)
    assert bootstrap_ratio(nats, tokens, "documents") == bootstrap_ratio(nats, tokens, "documents")
    assert bootstrap_ratio(nats, tokens, "documents") != bootstrap_ratio(nats, tokens, "documents", seed=1)


def test_one_unit_has_no_interval_and_empty_units_do_not_count() -> None:
    assert bootstrap_ratio(np.array([5.0]), np.array([2]), "documents") is None
    assert bootstrap_ratio(np.array([5.0, 0.0]), np.array([2, 0]), "documents") is None


def test_pooling_many_units_keeps_the_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(5)
    tokens = generator.integers(50, 150, size=3000)
    nats = tokens * 2.0 + generator.normal(0, 20, size=3000)
    whole = bootstrap_ratio(nats, tokens, "documents")
    monkeypatch.setattr(statistics, "MAX_UNITS", 700)
    pooled = bootstrap_ratio(nats, tokens, "documents")
    assert whole is not None
    assert pooled is not None
    assert pooled.stderr == pytest.approx(whole.stderr, rel=0.15)
    assert pooled.unit == "3,000 documents in 700 groups"


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(2, 2, 0.342380, 1.0), (0, 2, 0.0, 0.657620), (1, 1, 0.206549, 1.0), (81, 263, 0.255288, 0.366207)],
)
def test_the_interval_of_a_share_is_the_score_interval(count: int, total: int, low: float, high: float) -> None:
    """The ends are where the score test of the share is just not significant; the last row is from Newcombe (1998)."""
    found = proportion(count, total, "rows")
    assert found.interval == pytest.approx((low, high), abs=1e-4)
    share = count / total
    for end in found.interval:
        if 0 < end < 1:
            assert abs(share - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / total))


def test_the_interval_of_a_share_covers_the_truth_about_95_times_in_100() -> None:
    generator = np.random.default_rng(3)
    for total in (2, 10, 100):
        truths = generator.uniform(0, 1, size=4000)
        intervals = [proportion(int(k), total, "rows").interval for k in generator.binomial(total, truths)]
        covered = np.mean([low <= truth <= high for truth, (low, high) in zip(truths, intervals, strict=True)])
        assert 0.935 < covered < 0.975


def test_the_interval_of_a_mean_of_parts_is_students() -> None:
    found = mean_of_parts([1.0, 2.0, 4.0, 5.0], "the text")
    assert found is not None
    assert found.stderr == pytest.approx(math.sqrt(10 / 3) / 2)  # the deviations are 2, 1, 1 and 2
    assert found.interval == pytest.approx((3 - 3.182 * found.stderr, 3 + 3.182 * found.stderr))
    assert found.unit == "4 parts of the text"
    assert mean_of_parts([1.0], "the text") is None
    generator = np.random.default_rng(5)
    for count in (2, 8, 32):
        samples = generator.normal(2.0, 0.3, size=(3000, count))
        intervals = [mean_of_parts(sample, "it") for sample in samples]
        assert np.mean([one.low <= 2.0 <= one.high for one in intervals if one]) == pytest.approx(0.95, abs=0.012)


def test_calibration_noise_is_the_error_of_a_calibrated_classifier() -> None:
    generator = np.random.default_rng(4)
    confidences = generator.uniform(0.5, 1, size=50)
    errors = [calibration_error(calibration_bins(confidences, generator.random(50) < confidences)) for _ in range(500)]
    assert calibration_noise(confidences) == pytest.approx(np.mean(errors), abs=0.01)
    assert calibration_noise(np.ones(50)) == 0


def test_calibration_error_is_that_of_the_formula() -> None:
    """Four predictions of 0.6, of which one is right, and one of 1.0 that is: 4/5 * 0.35 + 1/5 * 0."""
    bins = calibration_bins(np.array([0.6, 0.6, 0.6, 0.6, 1.0]), np.array([True, False, False, False, True]), bins=10)
    assert [(found.low, found.high, found.count) for found in bins] == [(0.5, 0.6, 4), (0.9, 1.0, 1)]
    assert calibration_error(bins) == pytest.approx(0.8 * 0.35)


def test_a_calibrated_classifier_has_nearly_no_error() -> None:
    generator = np.random.default_rng(1)
    confidences = generator.uniform(0.5, 1, size=20_000)
    assert calibration_error(calibration_bins(confidences, generator.random(20_000) < confidences)) < 0.02
    assert calibration_error(calibration_bins(confidences, generator.random(20_000) < confidences - 0.3)) > 0.27
