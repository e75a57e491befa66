"""Dropout on a CPU, against its definition and what torch's compiler makes of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gptcli.nn.dropout import LEVELS, drop

SHAPE = (501, 203)
"""Of an odd count, so that the last random word decides about less than four numbers."""


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_every_number_is_dropped_or_raised_with_its_probability(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    y = drop(torch.ones(SHAPE, dtype=dtype), p)
    assert y.dtype == dtype
    is_dropped = y == 0
    kept = y[~is_dropped]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)), rtol=1e-2, atol=0)
    error = (p * (1 - p) / y.numel()) ** 0.5
    assert abs(is_dropped.double().mean() - p) < 4 * error + 1 / LEVELS


def test_numbers_are_dropped_independently_of_their_position() -> None:
    """Four of them share a random word, and each is dropped as often as chance says."""
    torch.manual_seed(1)
    is_dropped = (drop(torch.ones(400_000), 0.25) == 0).double()
    both = (is_dropped[:-1] * is_dropped[1:]).mean()
    assert abs(both - 1 / 16) < 4 * (1 / 16 / 400_000) ** 0.5
    for places in is_dropped.view(-1, 4).T:
        assert abs(places.mean() - 0.25) < 4 * (0.25 * 0.75 / 100_000) ** 0.5


def test_the_gradient_is_dropped_as_the_output_is() -> None:
    torch.manual_seed(2)
    x = torch.randn(SHAPE, requires_grad=True)
    y = drop(x, 0.3)
    y.sum().backward()
    torch.testing.assert_close(y, x * x.grad)
    assert set(x.grad.unique().tolist()) == {0.0, x.grad.max().item()}


def test_torchs_generator_decides() -> None:
    x, masks = torch.ones(SHAPE), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        masks.append(drop(x, 0.5))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert not torch.equal(drop(x, 0.5), drop(x, 0.5))


@pytest.mark.parametrize("p", [0.0, 1e-9, 1 - 1e-9])
def test_probabilities_at_the_ends_give_numbers(p: float) -> None:
    y = drop(torch.ones(SHAPE), p)
    assert torch.isfinite(y).all()
    assert (y == 1).all() == (p < 0.5)
    assert drop(torch.ones(0, 3), 0.5).shape == (0, 3)


def test_other_tensors_are_left_to_torch() -> None:
    class Own(Tensor):
        pass

    assert drop(torch.ones(2, 3, device="meta"), 0.5).is_meta
    assert isinstance(drop(torch.ones(2, 3).as_subclass(Own), 0.5), Own)


def block(x: Tensor, weight: Tensor) -> Tensor:
    return drop(torch.tanh(drop(x @ weight, 0.3)), 0.4) @ weight


def recomputed_block(x: Tensor, weight: Tensor) -> Tensor:
    return checkpoint(block, x, weight, use_reentrant=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses what torch deprecates
@pytest.mark.parametrize("one_block", [block, recomputed_block])
def test_compiled_and_recomputed_blocks_drop_the_same(one_block: Callable[..., Tensor]) -> None:
    """The masks of the backward pass are those of the forward pass, and those without a compiler."""

    def loss(x: Tensor, weight: Tensor) -> Tensor:
        return one_block(one_block(x, weight), weight).square().sum()

    def result(function: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        x, weight = (torch.randn(size, generator=generator, dtype=torch.float64) for size in ((32, 64), (64, 64)))
        torch.manual_seed(5)
        value = function(x, weight.requires_grad_())
        return value.detach(), torch.autograd.grad(value, weight)[0]

    torch._dynamo.reset()
    for ours, expected in zip(result(torch.compile(loss)), result(plain_loss), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-6)


def plain_loss(x: Tensor, weight: Tensor) -> Tensor:
    return block(block(x, weight), weight).square().sum()
