"""The step time model: found again from steps that it predicts, and the work counted as the optimizer does it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from gptcli.models.config import ModelConfig
from gptcli.models.estimate import flops_per_token
from gptcli.models.gpt import build_model
from gptcli.optim.build import build_optimizer
from gptcli.optim.config import AdamWConfig, MuonConfig
from gptcli.train.planning.step_time import (
    MeasuredStep,
    StepAmounts,
    StepTimeModel,
    fit_step_time,
    muon_flops,
    step_work,
)

SHAPES = [(1, 64, 512), (2, 128, 1024), (6, 128, 512), (4, 256, 2048), (2, 512, 512)]


def amounts(layers: int, width: int, vocabulary: int, tokens: int = 1024) -> StepAmounts:
    model = ModelConfig(n_layer=layers, n_embd=width, n_head=width // 32, vocab_size=vocabulary, context_length=64)
    return step_work(model, MuonConfig(), 64).of_step(tokens, 2)


@pytest.mark.parametrize(
    "coefficients",
    [StepTimeModel(1e-3, 2e-4, 1e-10, 1e-11), StepTimeModel(0, 2e-4, 0, 1e-11), StepTimeModel(0, 0, 3e-10, 0)],
)
def test_coefficients_are_found_again_from_the_steps_that_they_predict(coefficients: StepTimeModel) -> None:
    steps = [amounts(*shape, tokens) for shape, tokens in itertools.product(SHAPES, (256, 4096))]
    found = fit_step_time([MeasuredStep(step, coefficients.seconds(step)) for step in steps])
    unseen = amounts(8, 384, 4096, 8192)
    assert found.seconds(unseen) == pytest.approx(coefficients.seconds(unseen), rel=1e-6)


def test_no_coefficient_is_negative_and_no_operation_cheaper_than_the_limit_however_noisy_the_steps() -> None:
    noise = np.random.default_rng(0)
    for _ in range(50):
        shapes = SHAPES[: noise.integers(1, 6)]
        steps = [MeasuredStep(amounts(*shape), float(noise.lognormal(-4, 1))) for shape in shapes]
        found = fit_step_time(steps, least_flop=1e-12)
        assert min(found) >= 0 and found.flop >= 1e-12


def test_the_work_of_a_step_grows_with_its_tokens_and_the_optimizers_part_does_not() -> None:
    model = ModelConfig(n_layer=2, n_embd=64, n_head=2, vocab_size=512, context_length=64)
    one, two = (step_work(model, AdamWConfig(), 64).of_step(tokens, 1) for tokens in (512, 1024))
    assert two.flops == 2 * one.flops == 1024 * flops_per_token(model, 64)
    assert one.numbers < two.numbers < 2 * one.numbers


@pytest.mark.parametrize("mlp", ["swiglu", "gelu"])
def test_muons_operations_are_those_of_its_matrix_products(mlp: str) -> None:
    config = ModelConfig(n_layer=2, n_embd=64, n_head=4, n_kv_head=2, vocab_size=97, context_length=16, mlp=mlp)
    model = build_model(config, seed=0)
    optimizer = build_optimizer(model.parameter_infos(), MuonConfig(ns_steps=3))
    model.loss_sum(torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long)).backward()
    counted = 0

    class Counter(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal counted
            if function in (torch.ops.aten.bmm.default, torch.ops.aten.baddbmm.default):
                a, b = args[-2:]
                counted += 2 * a.shape[0] * a.shape[1] * a.shape[2] * b.shape[2]
            return function(*args, **(kwargs or {}))

    with Counter():
        optimizer.step()
    assert counted == pytest.approx(muon_flops(config, 3))
