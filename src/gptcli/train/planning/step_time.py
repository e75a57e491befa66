"""The time of an optimizer step on this machine, predicted for any model from a few steps that were measured.

Seconds = overhead + for each layer and pass + for each number moved + for each floating-point operation. None of these
four coefficients is negative, and together they have the least relative error over the measured steps. This module is
plain arithmetic and measures nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gptcli.models.config import ModelConfig
from gptcli.models.estimate import BYTES_FP32, block_matrix_shapes, flops_per_token, parameter_count
from gptcli.models.memory import BatchShape, block_kept_bytes
from gptcli.optim.config import MuonConfig, OptimConfig

NUMBERS_PER_LOGIT = 3
"""The logit, its log-softmax and its gradient."""
NUMBERS_PER_WEIGHT = 10
"""Numbers that clipping and the optimizer read and write: weight, gradient and two moments, some of them twice."""
SMALLEST_SCALE = 1e-30
LEAST_GAIN = 1e-9
"""Part by which an error must be lower than the best so far: a difference by rounding alone decides nothing."""


class StepAmounts(NamedTuple):
    """The countable amounts of one optimizer step, by which its time is predicted."""

    steps: float
    """Always 1."""
    layers: float
    """Layers passed by all micro-batches; the optimizer counts as a pass too."""
    numbers: float
    """Numbers moved."""
    flops: float
    """Floating-point operations."""


class MeasuredStep(NamedTuple):
    """The amounts of a step, and the seconds that it took."""

    amounts: StepAmounts
    seconds: float


class StepWork(NamedTuple):
    """The work of a model and its optimizer for one token and for one step."""

    layers: int
    numbers_per_token: float
    flops_per_token: float
    numbers_per_step: float
    flops_per_step: float

    def of_step(self, tokens: int, micro_batches: int) -> StepAmounts:
        """Return the amounts of a step of `tokens` in all."""
        return StepAmounts(
            steps=1.0,
            layers=self.layers * (micro_batches + 1),
            numbers=self.numbers_per_token * tokens + self.numbers_per_step,
            flops=self.flops_per_token * tokens + self.flops_per_step,
        )


def step_work(model: ModelConfig, optim: OptimConfig, seq_len: int) -> StepWork:
    """Return the work of a model and its optimizer, by models.estimate and models.memory."""
    parameters = parameter_count(model)
    block_numbers = block_kept_bytes(model, BatchShape(1, seq_len)) / (seq_len * BYTES_FP32)
    return StepWork(
        layers=model.n_layer,
        numbers_per_token=model.n_layer * block_numbers + NUMBERS_PER_LOGIT * model.vocab_size,
        flops_per_token=flops_per_token(model, seq_len),
        numbers_per_step=NUMBERS_PER_WEIGHT * parameters,
        flops_per_step=muon_flops(model, optim.ns_steps) if isinstance(optim, MuonConfig) else 0.0,
    )


def muon_flops(model: ModelConfig, iterations: int) -> float:
    """Return the operations of Newton-Schulz on every hidden matrix.

    An iteration on (m, n), m <= n, is two products of m^2 n and one of m^3.
    """
    shapes = block_matrix_shapes(model)
    products = sum(2 * 2 * min(shape) ** 2 * max(shape) + 2 * min(shape) ** 3 for shape in shapes)
    return float(model.n_layer * iterations * products)


class StepTimeModel(NamedTuple):
    """The coefficients, in seconds for one unit of each of the `StepAmounts`."""

    step: float
    layer: float
    number: float
    flop: float

    def seconds(self, amounts: StepAmounts) -> float:
        """Return the predicted seconds of a step."""
        return float(np.dot(self, amounts))


def fit_step_time(measured: Sequence[MeasuredStep], least_flop: float = 0.0) -> StepTimeModel:
    """Return the coefficients that explain the measured steps best: least squares of the relative error.

    With four coefficients every subset of them that may be nonzero can be tried, so the best one is found exactly.

    Args:
        measured: the steps.
        least_flop: the machine's limit: no operation takes fewer seconds.
    """
    amounts = np.array([step.amounts for step in measured], dtype=float)
    seconds = np.array([step.seconds for step in measured], dtype=float)
    flops = np.array([step.amounts.flops for step in measured], dtype=float)
    scale = np.maximum(amounts.max(axis=0), SMALLEST_SCALE)
    rows = amounts / scale / seconds[:, None]
    wanted = np.maximum(1 - least_flop * flops / seconds, 0)
    count = len(StepTimeModel._fields)
    best, best_error = np.zeros(count), np.inf
    for size in range(1, count + 1):
        for chosen in map(list, itertools.combinations(range(count), size)):
            coefficients = np.zeros(count)
            coefficients[chosen] = np.linalg.lstsq(rows[:, chosen], wanted, rcond=None)[0]
            error = float(((rows @ coefficients - wanted) ** 2).sum())
            if (coefficients >= 0).all() and error < best_error * (1 - LEAST_GAIN):
                best, best_error = coefficients, error
    step, layer, number, flop = (float(coefficient) for coefficient in best / scale)
    return StepTimeModel(step, layer, number, flop + least_flop)
