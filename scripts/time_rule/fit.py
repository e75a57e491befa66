"""The fit of the scaling law to the recorded runs: robust least squares with priors, by Levenberg and Marquardt.

Every corpus has its own entropy and a factor on all terms of the law, and every subset of it an offset, since it has
other documents; none of these decides between two candidates. The logarithms of the constants are fitted, which keeps
the constants positive, with a prior that prevails if the records contain little about them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptcli.train.planning.scaling_law import LAW_FILE, Runs, ScalingLaw, excess_bits
from gptcli.train.planning.zero_config import choose_muon, muon_decay
from time_rule.collect import read_runs

PRIOR = ScalingLaw(
    a=15.88, alpha=0.4013, b=56.43, beta=0.3048, v=2.936, gamma=0.2289, h=1.068, eta=1.204, k=2.0, kappa=0.5,
    w=0.04504, rho=18.26, s=0.1372, q=0.8349, repeats=2.557, spare=55.11,
)  # fmt: skip
"""The fit to the first 69 recorded runs, most of which were short and had too weak a decay. Its own prior had the
exponents and R* of Hoffmann et al. 2022 (arXiv:2203.15556), Muennighoff et al. 2023 and Tao et al. 2024. Models that
have hardly begun to learn do not use their context, so k and kappa are a guess instead."""
DOUBT = ScalingLaw(
    a=0.35, alpha=0.05, b=0.35, beta=0.05, v=0.25, gamma=0.075, h=0.15, eta=0.075, k=0.7, kappa=0.3, w=0.25,
    rho=0.15, s=0.35, q=0.05, repeats=0.35, spare=0.35,
)  # fmt: skip
"""Standard deviations of the logarithms: small for constants on which short runs depend little, such as those of the
vocabulary."""
NOISE_BITS, EXCERPT_BITS = 0.02, 0.3
"""Random differences in bits per byte of runs from the law, and of subsets from their corpus."""
ENTROPY, ENTROPY_DOUBT, FACTOR_DOUBT = 0.8, 0.4, 0.3
"""The entropy of a corpus in bits per byte, its standard deviation, and that of the logarithm of its factor."""
HUBER = 2.0
"""Residuals above this multiple of the noise have less weight than their squares."""
ITERATIONS = 300
OUTDATED = 1.6
"""Runs whose decay differs from the rule's by this factor are left out: they were made by an earlier rule."""
SMALL_DECAY = 0.15
"""A difference of decays that is negligible."""
LEAST_OPERATIONS = 1.5e12
"""Operations of the blocks, 6 for each weight and token, below which a run is left out; the prior covers such runs."""


class Records(NamedTuple):
    """The runs as arrays; `corpus` and `excerpt` are the numbers of the corpus and of the subset of each run."""

    runs: Runs
    bits: np.ndarray
    corpus: np.ndarray
    excerpt: np.ndarray
    names: list[str]


class Fit(NamedTuple):
    """The law, the entropy of each corpus, and the residual of each run (measured - predicted, bits per byte)."""

    law: ScalingLaw
    entropies: dict[str, float]
    residuals: np.ndarray


def report(path: Path, *, write: bool) -> int:
    """Fit and print the law, and write scaling_law.json or compare with it; return 1 if it differs."""
    lines = [run for run in read_runs(path) if counts(run)]
    fit = fit_law(as_records(lines)) if lines else Fit(PRIOR, {}, np.zeros(0))
    print(f"{len(lines)} runs, rms {rms(fit.residuals):.4f} bits per byte" if lines else "no runs: the prior")
    for name, value in fit.law._asdict().items():
        print(f"  {name:<8} {value:.4g}")
    if lines:
        print_residuals(lines, fit)
    law = {name: float(f"{value:.4g}") for name, value in fit.law._asdict().items()}
    about = "fitted by scripts/fit_time_rule" if lines else "the prior of scripts/fit_time_rule"
    text = json.dumps({"about": about, "runs": len(lines), "law": law}, indent=2) + "\n"
    if write:
        LAW_FILE.write_text(text, encoding="utf-8")
        return 0
    return int(LAW_FILE.read_text(encoding="utf-8") != text)


def counts(run: dict[str, Any]) -> bool:
    """Return whether the fit uses a run, which did not fail, was long enough, and had about the decay of the rule."""
    if "failed" in run or 6 * run["weights"] * run["tokens"] < LEAST_OPERATIONS:
        return False
    weights_per_token = run["weights"] / (run["unique_bytes"] / run["bytes_per_token"])
    rate = choose_muon(run["n_embd"], run["steps"], 1.0)["lr"]
    decay, had = muon_decay(run["epochs"], weights_per_token, rate * run["steps"]), run["optim"]["weight_decay"]
    return 1 / OUTDATED < had / decay < OUTDATED or abs(had - decay) < SMALL_DECAY


def print_residuals(lines: Sequence[dict[str, Any]], fit: Fit) -> None:
    """Print the errors on each corpus, those of a fit to the other corpora, and the runs with the largest errors."""
    records = as_records(lines)
    for number, name in enumerate(records.names):
        own = fit.residuals[records.corpus == number]
        predicted = left_out(records, number)
        print(f"  {name}: {len(own)} runs, entropy {fit.entropies[name]:.3f}, rms {rms(own):.4f}{predicted}")
    for index in np.argsort(-abs(fit.residuals))[:5]:
        run = lines[index]
        print(f"  {fit.residuals[index]:+.3f}: {run['corpus']} {run['number']}")


def left_out(records: Records, number: int) -> str:
    """Return the error of a fit to the other corpora on this one, up to its entropy and its factor, in words."""
    own = records.corpus == number
    if own.all() or own.sum() < 4:
        return ""
    predicted = excess_bits(fit_law(take(records, ~own)).law, take(records, own).runs)
    factor, entropy = np.polyfit(predicted, records.bits[own], 1)
    return f", predicted by the others to {rms(records.bits[own] - entropy - factor * predicted):.4f}"


def as_records(lines: Sequence[dict[str, Any]]) -> Records:
    names = sorted({run["corpus"] for run in lines})
    excerpts = sorted({(run["corpus"], run["unique_bytes"]) for run in lines})

    def column(key: str) -> np.ndarray:
        return np.array([run[key] for run in lines], dtype=float)

    runs = Runs(
        weights=column("weights"),
        layers=column("n_layer"),
        width=column("n_embd"),
        vocabulary=column("vocab_size"),
        context=column("context_length"),
        tokens_per_step=column("tokens_per_step"),
        bytes_per_token=column("bytes_per_token"),
        unique_bytes=column("unique_bytes"),
        bytes_seen=column("bytes_seen"),
    )
    corpus = np.array([names.index(run["corpus"]) for run in lines])
    excerpt = np.array([excerpts.index((run["corpus"], run["unique_bytes"])) for run in lines])
    return Records(runs, column("bits_per_byte"), corpus, excerpt, names)


def take(records: Records, chosen: np.ndarray) -> Records:
    """Return the chosen runs; corpora keep their numbers."""
    runs = Runs(*(column[chosen] for column in records.runs))
    return Records(runs, records.bits[chosen], records.corpus[chosen], records.excerpt[chosen], records.names)


def fit_law(records: Records) -> Fit:
    """Return the most probable law, given the records and the prior."""
    corpora, excerpts = len(records.names), int(records.excerpt.max()) + 1
    ends = np.cumsum([len(ScalingLaw._fields), corpora, corpora, excerpts])[:-1]
    prior, doubt = np.log(PRIOR), np.array(DOUBT)

    def predicted(values: np.ndarray) -> np.ndarray:
        constants, entropies, factors, offsets = np.split(values, ends)
        excess = np.exp(factors)[records.corpus] * excess_bits(ScalingLaw(*np.exp(constants)), records.runs)
        return entropies[records.corpus] + offsets[records.excerpt] + excess

    def residuals(values: np.ndarray) -> np.ndarray:
        """Return the residuals of the runs, over the noise and damped above HUBER, then of the priors, over DOUBT."""
        constants, entropies, factors, offsets = np.split(values, ends)
        return np.concatenate(
            [
                huber((records.bits - predicted(values)) / NOISE_BITS),
                (constants - prior) / doubt,
                (entropies - ENTROPY) / ENTROPY_DOUBT,
                factors / FACTOR_DOUBT,
                offsets / EXCERPT_BITS,
            ]
        )

    start = np.concatenate([prior, np.full(corpora, ENTROPY), np.zeros(corpora + excerpts)])
    values = levenberg_marquardt(residuals, start)
    constants, entropies = np.split(values, ends)[:2]
    named = dict(zip(records.names, map(float, entropies), strict=True))
    return Fit(ScalingLaw(*map(float, np.exp(constants))), named, records.bits - predicted(values))


def huber(values: np.ndarray) -> np.ndarray:
    """Return values whose squares are Huber's loss: unchanged up to HUBER, above it growing as the square root."""
    size = np.abs(values)
    return np.where(size <= HUBER, values, np.sign(values) * np.sqrt(2 * HUBER * np.maximum(size, HUBER) - HUBER**2))


def levenberg_marquardt(residuals: Any, start: np.ndarray) -> np.ndarray:
    """Minimise the sum of squared residuals from `start` (Marquardt 1963), with slopes by differences."""
    values, damping = start, 1e-2
    left = residuals(values)
    for _ in range(ITERATIONS):
        slopes = np.stack([(residuals(values + step) - left) / 1e-5 for step in 1e-5 * np.eye(len(values))], axis=1)
        normal = slopes.T @ slopes
        move = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-9), -slopes.T @ left)
        tried = residuals(values + move)
        if tried @ tried < left @ left:
            gained = left @ left - tried @ tried
            values, left, damping = values + move, tried, max(damping / 3, 1e-9)
            if gained < 1e-7 * (tried @ tried):
                break
        else:
            damping *= 4
            if damping > 1e12:
                break
    return values


def rms(values: np.ndarray) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))
