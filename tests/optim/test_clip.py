"""The gradient norm and what gradients are divided by, against the definition in float64 and torch's own clipping."""

from __future__ import annotations

import math

import pytest
import torch

from gptcli.optim.clip import clip_divisor, gradient_norm


def parameters_with(gradients: list[torch.Tensor]) -> list[torch.nn.Parameter]:
    parameters = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    return parameters


def random_gradients(scale: float = 1.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [scale * torch.randn(shape, generator=generator) for shape in [(7, 5), (3,), (2, 2, 2)]]


def joint_norm(tensors: list[torch.Tensor]) -> float:
    return torch.cat([tensor.double().flatten() for tensor in tensors]).norm().item()


def test_the_norm_is_the_joint_norm() -> None:
    gradients = random_gradients(scale=10)
    assert gradient_norm(parameters_with(gradients)).item() == pytest.approx(joint_norm(gradients), rel=1e-6)


def test_the_norm_of_millions_of_numbers_is_not_lost_in_rounding() -> None:
    gradient = torch.randn(6000, 1000, generator=torch.Generator().manual_seed(0))
    assert gradient_norm(parameters_with([gradient])).item() == pytest.approx(joint_norm([gradient]), rel=1e-6)


def test_a_norm_above_the_limit_is_divided_down_to_it() -> None:
    divisor = clip_divisor(torch.tensor(10.0), 0.5)
    assert 10.0 / divisor.item() == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("max_norm", [1e3, math.inf])
def test_a_norm_below_the_limit_is_divided_by_exactly_one(max_norm: float) -> None:
    assert clip_divisor(torch.tensor(12.5), max_norm).item() == 1.0


def test_the_result_is_torchs() -> None:
    ours, reference = parameters_with(random_gradients(5)), parameters_with(random_gradients(5))
    expected = torch.nn.utils.clip_grad_norm_(reference, 1.0)
    norm = gradient_norm(ours)
    assert torch.equal(norm, expected)
    for a, b in zip(ours, reference, strict=True):
        torch.testing.assert_close(a.grad / clip_divisor(norm, 1.0), b.grad, rtol=1e-6, atol=0)


def test_the_norm_of_bf16_gradients_is_computed_in_fp32() -> None:
    gradient = torch.ones(1_000_001, dtype=torch.bfloat16)
    norm = gradient_norm(parameters_with([gradient, gradient]))
    assert norm.dtype == torch.float32
    assert norm.item() == pytest.approx(math.sqrt(2_000_002), rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_number_shows_in_the_norm(bad: float) -> None:
    gradients = random_gradients()
    gradients[0][3, 2] = bad
    assert not gradient_norm(parameters_with(gradients)).isfinite()


def test_parameters_without_gradient_count_for_nothing() -> None:
    assert gradient_norm([torch.nn.Parameter(torch.ones(3))]).item() == 0
