"""What an optimizer step costs on this machine, predicted for any model from a few that were measured.

Seconds = overhead + for each layer and pass + for each number moved + for each floating-point operation: four prices,
none negative, that meet the measured steps best in proportion. Plain arithmetic: measures nothing itself.
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
"""Read and written by clipping and the optimizer: weight, gradient and two moments, some of them twice."""


class StepWork(NamedTuple):
    """What one token and one step of a model ask of a machine, in countable things."""

    layers: int
    numbers_per_token: float
    flops_per_token: float
    numbers_per_step: float
    flops_per_step: float

    def of_step(self, tokens: int, micro_batches: int) -> tuple[float, float, float, float]:
        """A step of `tokens` in all: (steps, layers passed, numbers moved, operations); the optimizer is a pass too."""
        return (
            1.0,
            self.layers * (micro_batches + 1),
            self.numbers_per_token * tokens + self.numbers_per_step,
            self.flops_per_token * tokens + self.flops_per_step,
        )


def step_work(model: ModelConfig, optim: OptimConfig, seq_len: int) -> StepWork:
    """The work of a model and its optimizer, by models.estimate and models.memory."""
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
    """Newton-Schulz on every hidden matrix: an iteration on (m, n), m <= n, is two products of m^2 n and one of m^3."""
    shapes = block_matrix_shapes(model)
    products = sum(2 * 2 * min(shape) ** 2 * max(shape) + 2 * min(shape) ** 3 for shape in shapes)
    return float(model.n_layer * iterations * products)


class StepTimeModel(NamedTuple):
    """Seconds for a step, for each layer passed, for each number moved and for each operation."""

    step: float
    layer: float
    number: float
    flop: float

    def seconds(self, amounts: Sequence[float]) -> float:
        return float(np.dot(self, amounts))


def fit_step_time(measured: Sequence[tuple[Sequence[float], float]], least_flop: float = 0.0) -> StepTimeModel:
    """The prices that explain (amounts of a step, its seconds) best: least squares of the error in proportion.

    With four prices every choice of those that are not zero can be tried, so the best one is found, not searched for.

    Args:
        least_flop: seconds that an operation takes at least: the machine's limit.
    """
    amounts = np.array([row for row, _ in measured], dtype=float)
    seconds = np.array([value for _, value in measured], dtype=float)
    scale = np.maximum(amounts.max(axis=0), 1e-30)
    rows = amounts / scale / seconds[:, None]
    wanted = np.maximum(1 - least_flop * amounts[:, 3] / seconds, 0)
    best, best_error = np.zeros(4), np.inf
    for count in range(1, 5):
        for chosen in map(list, itertools.combinations(range(4), count)):
            prices = np.zeros(4)
            prices[chosen] = np.linalg.lstsq(rows[:, chosen], wanted, rcond=None)[0]
            error = float(((rows @ prices - wanted) ** 2).sum())
            if (prices >= 0).all() and error < best_error * (1 - 1e-9):
                best, best_error = prices, error
    step, layer, number, flop = (float(price) for price in best / scale)
    return StepTimeModel(step, layer, number, flop + least_flop)
