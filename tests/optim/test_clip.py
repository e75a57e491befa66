"""Clipping against the definition in float64."""

from __future__ import annotations

import math

import pytest
import torch

from gptcli.optim.clip import clip_gradients


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


def test_gradients_above_the_limit_are_scaled_to_it_and_keep_their_direction() -> None:
    gradients = random_gradients(scale=10)
    parameters = parameters_with(gradients)
    norm = clip_gradients(parameters, 0.5)
    assert norm.item() == pytest.approx(joint_norm(gradients), rel=1e-6)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient * (0.5 / joint_norm(gradients)))


@pytest.mark.parametrize("max_norm", [1e3, math.inf])
def test_gradients_below_the_limit_do_not_change_by_a_bit(max_norm: float) -> None:
    gradients = random_gradients()
    parameters = parameters_with(gradients)
    clip_gradients(parameters, max_norm)
    assert all(torch.equal(p.grad, gradient) for p, gradient in zip(parameters, gradients, strict=True))


def test_the_result_is_torchs() -> None:
    ours, reference = parameters_with(random_gradients(5)), parameters_with(random_gradients(5))
    norm = torch.nn.utils.clip_grad_norm_(reference, 1.0)
    torch.testing.assert_close(clip_gradients(ours, 1.0), norm, rtol=0, atol=0)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, reference, strict=True))


def test_the_norm_of_bf16_gradients_is_computed_in_fp32() -> None:
    gradient = torch.ones(1_000_001, dtype=torch.bfloat16)
    norm = clip_gradients(parameters_with([gradient, gradient]), math.inf)
    assert norm.dtype == torch.float32
    assert norm.item() == pytest.approx(math.sqrt(2_000_002), rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_number_shows_in_the_norm(bad: float) -> None:
    gradients = random_gradients()
    gradients[0][3, 2] = bad
    assert not clip_gradients(parameters_with(gradients), 1.0).isfinite()


def test_parameters_without_gradient_count_for_nothing() -> None:
    assert clip_gradients([torch.nn.Parameter(torch.ones(3))], 1.0).item() == 0
