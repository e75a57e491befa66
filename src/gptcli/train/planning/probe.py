"""Measuring this machine: how fast it makes optimizer steps, with real models and optimizers on random tokens.

A few shapes give the prices of a step (step_time.py); then the candidates that the prices let win are measured too,
until the winner is one that was, so that no choice rests on an extrapolation alone.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from gptcli.data.batches import Batch
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import build_model
from gptcli.nn.device import autocast, synchronize
from gptcli.optim.build import build_optimizer
from gptcli.optim.config import OptimConfig
from gptcli.parallel.strategy import Alone
from gptcli.train.planning.scaling_law import ScalingLaw
from gptcli.train.planning.step_time import fit_step_time
from gptcli.train.planning.time_rule import Candidate, CandidateGrid, Prediction
from gptcli.train.step import Stepper

PLACES = {
    "cpu": (
        (2, 64, 64, 512, 512),
        (2, 128, 128, 2048, 1024),
        (3, 384, 64, 512, 512),
        (6, 128, 128, 512, 1024),
        (3, 256, 256, 1024, 2048),
    ),
    "gpu": (
        (2, 128, 128, 1024, 8192),
        (8, 768, 512, 16384, 16384),
        (12, 512, 256, 2048, 16384),
        (6, 384, 256, 4096, 65536),
    ),
}
"""(layers, width, context, vocabulary, tokens of a step) that are measured first, the quick ones before the slow."""
GEMM_SIZE = {"cpu": 1024, "gpu": 8192}
TIMED_STEPS = 4
MEASURED_WEIGHT = 3
"""How often the winner's own measurement counts beside those of other shapes."""


@dataclass(frozen=True)
class ProbeSetup:
    """Where and how candidates are measured."""

    device: torch.device
    precision: str
    optim: OptimConfig
    grad_clip: float

    @property
    def kind(self) -> str:
        return "cpu" if self.device.type == "cpu" else "gpu"


def measure(machine: ProbeSetup, grid: CandidateGrid, law: ScalingLaw, seconds: float) -> list[Prediction]:
    """The candidates ranked by what a step costs on this machine, in about `seconds`: the best, then runners-up.

    The first measurement is not counted in them: it waits for libraries that training would wait for.
    """
    first, *places = dict.fromkeys(map(grid.nearest, PLACES[machine.kind]))
    measured = {first: candidate_seconds(machine, grid.candidates[first], seconds / 12)}
    stop = time.perf_counter() + seconds
    for number in places:
        if time.perf_counter() > stop - seconds / 3:
            break
        measured[number] = candidate_seconds(machine, grid.candidates[number], seconds / 12)
    rows = [(grid.amounts[number], taken) for number, taken in measured.items()]
    while True:
        cost = fit_step_time(rows, grid.situation.least_flop)
        ranked = grid.rank(cost, law, max(amounts[3] for amounts, _ in rows))
        winner, left = ranked[0].number, stop - time.perf_counter()
        if winner in measured or cost.seconds(grid.amounts[winner]) * (TIMED_STEPS + 1) > left:
            return ranked
        measured[winner] = candidate_seconds(machine, ranked[0].candidate, seconds / 12)
        rows += [(grid.amounts[winner], measured[winner])] * MEASURED_WEIGHT


def seconds_per_flop(machine: ProbeSetup) -> float:
    """Seconds of an operation in a large matrix product: no step can be faster."""
    count, taken = GEMM_SIZE[machine.kind], []
    a = torch.randn(count, count, device=machine.device)
    for _ in range(3):
        synchronize(machine.device)
        began = time.perf_counter()
        with autocast(machine.device, machine.precision):
            a @ a
        synchronize(machine.device)
        taken.append(time.perf_counter() - began)
    return min(taken) / (2 * count**3)


def candidate_seconds(machine: ProbeSetup, candidate: Candidate, seconds: float) -> float:
    """Seconds of one of the candidate's steps, measured."""
    _, model, seq_len, tokens_per_step, batch_size = candidate
    return step_seconds(machine, model, tokens_per_step, seq_len, batch_size, seconds)


def step_seconds(
    machine: ProbeSetup, model_config: ModelConfig, tokens_per_step: int, seq_len: int, batch_size: int, seconds: float
) -> float:
    """Median seconds of an optimizer step in micro-batches of `batch_size` sequences.

    After a first step that is not counted, two at least, then more while they have not taken `seconds`.
    """
    model = build_model(model_config, seed=0, device=machine.device)
    model.train()
    stepper = Stepper(
        Alone(model),
        build_optimizer(model.parameter_infos(), machine.optim),
        device=machine.device,
        precision=machine.precision,
        grad_clip=machine.grad_clip,
    )
    shape = (tokens_per_step // seq_len, seq_len + 1)
    ids = torch.randint(model_config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    batches = [Batch(part[:, :-1].contiguous(), part[:, 1:].contiguous(), None) for part in ids.split(batch_size)]
    stepper.run(batches)
    taken: list[float] = []
    while len(taken) < 2 or (len(taken) < TIMED_STEPS and sum(taken) < seconds):
        synchronize(machine.device)
        began = time.perf_counter()
        stepper.run(batches)
        synchronize(machine.device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
