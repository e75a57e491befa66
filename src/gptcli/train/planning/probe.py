"""A probe of this machine: the time of optimizer steps, with real models and optimizers on random tokens.

A few shapes determine the step time model (step_time.py). Then the candidates that win by it are measured too, until
the winner is one that was measured, so that no choice rests on an extrapolation alone.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Literal

import torch

from gptcli.data.batch import Batch
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model
from gptcli.nn.device import ResolvedPrecision, autocast, seconds_of_call
from gptcli.optim.build import build_optimizer
from gptcli.optim.config import OptimConfig
from gptcli.parallel.strategy import Alone
from gptcli.train.planning.scaling_law import ScalingLaw
from gptcli.train.planning.step_time import MeasuredStep, fit_step_time
from gptcli.train.planning.time_rule import Candidate, CandidateGrid, GridPoint, Prediction
from gptcli.train.step import Stepper

FIRST_PLACES = {
    "cpu": (
        GridPoint(layers=2, width=64, context=64, vocabulary=512, tokens_per_step=512),
        GridPoint(layers=2, width=128, context=128, vocabulary=2048, tokens_per_step=1024),
        GridPoint(layers=3, width=384, context=64, vocabulary=512, tokens_per_step=512),
        GridPoint(layers=6, width=128, context=128, vocabulary=512, tokens_per_step=1024),
        GridPoint(layers=3, width=256, context=256, vocabulary=1024, tokens_per_step=2048),
    ),
    "gpu": (
        GridPoint(layers=2, width=128, context=128, vocabulary=1024, tokens_per_step=8192),
        GridPoint(layers=8, width=768, context=512, vocabulary=16384, tokens_per_step=16384),
        GridPoint(layers=12, width=512, context=256, vocabulary=2048, tokens_per_step=16384),
        GridPoint(layers=6, width=384, context=256, vocabulary=4096, tokens_per_step=65536),
    ),
}
"""The places that are measured first, the quick ones before the slow."""
GEMM_SIZE = {"cpu": 1024, "gpu": 8192}
GEMM_REPEATS = 3
FEWEST_TIMED_STEPS, TIMED_STEPS = 2, 4
MEASURED_WEIGHT = 3
"""The weight of the winner's own measurement beside those of other shapes."""
CANDIDATE_PART = 1 / 12
"""Part of the time that the steps of one candidate take, about."""
WINNERS_PART = 1 / 3
"""Part of the time that is kept for winners."""


@dataclass(frozen=True)
class ProbeSetup:
    """The device and the settings with which candidates are measured."""

    device: torch.device
    precision: ResolvedPrecision
    optim: OptimConfig
    grad_clip: float

    @property
    def kind(self) -> Literal["cpu", "gpu"]:
        """The kind of the device."""
        return "cpu" if self.device.type == "cpu" else "gpu"


def measure(setup: ProbeSetup, grid: CandidateGrid, law: ScalingLaw, seconds: float) -> list[Prediction]:
    """Rank the candidates by the time of a step on this machine, in about `seconds`: the best, then runners-up.

    The first measurement does not count in them: it waits for libraries that training would wait for.
    """
    first, *places = dict.fromkeys(map(grid.nearest, FIRST_PLACES[setup.kind]))
    for_one = seconds * CANDIDATE_PART
    measured = {first: candidate_seconds(setup, grid.candidates[first], for_one)}
    stop = time.perf_counter() + seconds
    for number in places:
        if time.perf_counter() > stop - seconds * WINNERS_PART:
            break
        measured[number] = candidate_seconds(setup, grid.candidates[number], for_one)
    steps = [MeasuredStep(grid.amounts[number], taken) for number, taken in measured.items()]
    while True:
        time_model = fit_step_time(steps, grid.inputs.least_flop)
        ranked = grid.rank(time_model, law, max(step.amounts.flops for step in steps))
        winner, left = ranked[0].number, stop - time.perf_counter()
        if winner in measured or time_model.seconds(grid.amounts[winner]) * (TIMED_STEPS + 1) > left:
            return ranked
        measured[winner] = candidate_seconds(setup, ranked[0].candidate, for_one)
        steps += [MeasuredStep(grid.amounts[winner], measured[winner])] * MEASURED_WEIGHT


def seconds_per_flop(setup: ProbeSetup) -> float:
    """Return the seconds of an operation in a large matrix product; no step can be faster."""
    size = GEMM_SIZE[setup.kind]
    a = torch.randn(size, size, device=setup.device)

    def multiply() -> None:
        with autocast(setup.device, setup.precision):
            a @ a

    return min(seconds_of_call(multiply, setup.device) for _ in range(GEMM_REPEATS)) / (2 * size**3)


def candidate_seconds(setup: ProbeSetup, candidate: Candidate, seconds: float) -> float:
    """Return the measured seconds of one of the candidate's steps; see `step_seconds`."""
    return step_seconds(
        setup, candidate.model, candidate.tokens_per_step, candidate.seq_len, candidate.batch_size, seconds
    )


def step_seconds(
    setup: ProbeSetup, model_config: ModelConfig, tokens_per_step: int, seq_len: int, batch_size: int, seconds: float
) -> float:
    """Return the median seconds of an optimizer step in micro-batches of `batch_size` sequences.

    A first step is not counted. Then FEWEST_TIMED_STEPS are timed, and more, up to TIMED_STEPS, within `seconds`.
    """
    model = build_model(model_config, seed=0, device=setup.device)
    model.train()
    stepper = Stepper(
        Alone(model),
        build_optimizer(model.parameter_infos(), setup.optim),
        device=setup.device,
        precision=setup.precision,
        grad_clip=setup.grad_clip,
    )
    shape = (tokens_per_step // seq_len, seq_len + 1)
    ids = torch.randint(model_config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    batches = [Batch(part[:, :-1].contiguous(), part[:, 1:].contiguous(), None) for part in ids.split(batch_size)]
    stepper.run(batches)
    taken: list[float] = []
    while len(taken) < FEWEST_TIMED_STEPS or (len(taken) < TIMED_STEPS and sum(taken) < seconds):
        taken.append(seconds_of_call(lambda: stepper.run(batches), setup.device))
    return statistics.median(taken)
