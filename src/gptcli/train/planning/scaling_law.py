"""The scaling law: the validation loss of a small run, predicted from its shape, its text and its length.

Its constants were fitted to recorded runs (scripts/fit_time_rule) and lie beside this file. The law only has to rank
the candidates for one corpus. The entropy of the corpus is the same for all of them, so it is left out.

In bits per byte of text, above that entropy:

    a / N'^alpha                    a finite model: N' weights of the blocks
  + b / D'^beta                     a finite text: D' bytes seen
  + v / (V C)^gamma                 a finite vocabulary: V entries, C wide (Tao et al. 2024, arXiv:2407.13623)
  + h (V / tokens')^eta             entries that were seen too rarely to be learned
  + k / (T bytes)^kappa             a context of T tokens
  + w ln^2(C / (rho L))             a model that is too wide or too deep

Repeated text teaches less, and weights beyond those that suit a text help less (Muennighoff et al. 2023,
arXiv:2305.16264): D' = U + U R* (1 - exp(-(D/U - 1) / R*)) for D bytes seen of U unique ones, and likewise N' beyond
the N that suits U. Steps of S tokens learn as if the text were shorter by 1 + S / Sc, where Sc = s tokens^q grows with
the run (McCandlish et al. 2018, arXiv:1812.06162; Zhang et al. 2024, arXiv:2410.21676). Time plays no part here.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

LAW_FILE = Path(__file__).with_name("scaling_law.json")

Numbers = np.ndarray | float


class ScalingLaw(NamedTuple):
    """The constants, named as in the formulas above; all are positive."""

    a: float
    alpha: float
    b: float
    beta: float
    v: float
    gamma: float
    h: float
    eta: float
    k: float
    kappa: float
    w: float
    rho: float
    s: float
    q: float
    repeats: float
    """R* of the text."""
    spare: float
    """R* of the weights."""


class Runs(NamedTuple):
    """The facts about runs that the law needs: numbers, or arrays with one number a run."""

    weights: Numbers
    """Weights of the blocks, without embeddings and head."""
    layers: Numbers
    width: Numbers
    vocabulary: Numbers
    context: Numbers
    """Tokens of a sequence."""
    tokens_per_step: Numbers
    bytes_per_token: Numbers
    unique_bytes: Numbers
    bytes_seen: Numbers


@cache
def shipped_law() -> ScalingLaw:
    """Return the fitted constants."""
    return ScalingLaw(**json.loads(LAW_FILE.read_text(encoding="utf-8"))["law"])


def excess_bits(law: ScalingLaw, runs: Runs) -> Numbers:
    """Return the predicted bits per byte above the entropy of the text for each run."""
    text = useful_bytes(law, runs)
    tokens = text / runs.bytes_per_token
    return (
        law.a * useful_weights(law, runs) ** -law.alpha
        + law.b * text**-law.beta
        + law.v * (runs.vocabulary * runs.width) ** -law.gamma
        + law.h * (runs.vocabulary / tokens) ** law.eta
        + law.k * (runs.context * runs.bytes_per_token) ** -law.kappa
        + law.w * np.log(runs.width / (law.rho * runs.layers)) ** 2
    )


def useful_bytes(law: ScalingLaw, runs: Runs) -> Numbers:
    """Return D': the bytes of new text that would teach as much as those seen, in steps of the same size."""
    text = saturating(runs.bytes_seen, runs.unique_bytes, law.repeats)
    critical = law.s * (runs.bytes_seen / runs.bytes_per_token) ** law.q
    return text / (1 + runs.tokens_per_step / critical)


def useful_weights(law: ScalingLaw, runs: Runs) -> Numbers:
    """Return N': the weights, of which those beyond the number that suits the unique text count less.

    With that number both terms fall alike.
    """
    suitable = (law.alpha * law.a / (law.beta * law.b) * runs.unique_bytes**law.beta) ** (1 / law.alpha)
    return saturating(runs.weights, suitable, law.spare)


def saturating(amount: Numbers, enough: Numbers, scale: float) -> Numbers:
    """Return `amount`, of which what exceeds `enough` counts less and less, in all at most `scale` times `enough`."""
    beyond = np.maximum(amount / enough - 1, 0)
    return np.minimum(amount, enough) + enough * scale * -np.expm1(-beyond / scale)
