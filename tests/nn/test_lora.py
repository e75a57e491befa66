"""LoRA's linear map against the formula of one matrix, in float64, in every way in which it is run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gptcli.nn.layers import Linear
from gptcli.nn.lora import LoraForm, LoraLinear, initial_a, lora_linear
from gptcli.nn.parameters import MATRIX
from gptcli.nn.recompute import recomputed

WIDTH, RANK, PARTS = 6, 2, (("q", 8), ("k", 4), ("v", 4))


def lora(*, parts: tuple[tuple[str, int], ...] = PARTS, bias: bool = True, **form: object) -> LoraLinear:
    """A map with random weights everywhere."""
    base = Linear(WIDTH, sum(rows for _, rows in parts), bias, MATRIX._replace(parts=parts)).double()
    module = LoraLinear(base, LoraForm(RANK, 1.5, **form))  # type: ignore[arg-type]  # by name
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data.normal_()
    return module


def by_one_matrix(module: LoraLinear, x: Tensor) -> Tensor:
    """The map by W + s B A, part by part, with the lengths of its rows where they are trained."""
    a, b = module.lora_a.chunk(len(module.parts)), module.lora_b.split(module.parts)
    weight = module.weight + 1.5 * torch.cat([of_b @ of_a for of_a, of_b in zip(a, b, strict=True)])
    if module.lora_lengths is not None:
        weight = weight * (module.lora_lengths / weight.norm(dim=1).detach())[:, None]
    return torch.nn.functional.linear(x, weight, module.bias)


def gradients(y: Tensor, module: LoraLinear, x: Tensor) -> list[Tensor]:
    """The gradients of x and of all trained weights for one sum over y."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return list(torch.autograd.grad((y * torch.arange(y.numel()).view_as(y)).sum(), [x, *trained]))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("has_lengths", [False, True])
@pytest.mark.parametrize("parts", [PARTS, (("o", 5),)])
def test_it_and_its_gradients_are_those_of_one_matrix(
    parts: tuple[tuple[str, int], ...], has_lengths: bool, bias: bool
) -> None:
    module = lora(parts=parts, bias=bias, has_lengths=has_lengths)
    x = torch.randn(2, 3, WIDTH, dtype=torch.float64, requires_grad=True)
    ours, expected = module(x), by_one_matrix(module, x)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradients(ours, module, x), gradients(expected, module, x))
    plain = torch.nn.functional.linear(x, module.whole_weight(), module.bias)
    torch.testing.assert_close(plain, expected)


def test_the_frozen_matrix_has_no_gradient_and_keeps_no_second_input() -> None:
    module, kept = lora(), []
    x = torch.randn(5, WIDTH, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = module(x)
    assert not module.weight.requires_grad and not module.bias.requires_grad
    places = {tensor.untyped_storage().data_ptr() for tensor in kept}
    own = {parameter.data_ptr() for parameter in module.parameters()}
    assert sum(tensor.numel() for tensor in kept if tensor.data_ptr() not in own) == x.numel() + 5 * 3 * RANK
    assert y.untyped_storage().data_ptr() not in places


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_the_input_of_a_alone_is_dropped(p: float) -> None:
    module = lora(bias=False, dropout=p)
    x = torch.randn(400, WIDTH, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    ours = module(x)
    base = x @ module.weight.T
    tensors = (module.weight, None, module.lora_a, module.lora_b, module.parts, 1.5)
    if not p:
        torch.testing.assert_close(ours, lora_linear(x, None, *tensors))
        return
    from gptcli.nn.dropout import drop

    torch.manual_seed(3)
    expected = lora_linear(x, drop(x, p), *tensors)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(gradients(ours, module, x), gradients(expected, module, x))
    assert not torch.allclose(ours, module.eval()(x)) and not torch.allclose(ours, base)


@pytest.mark.parametrize("mode", ["full", "selective"])
def test_recomputation_gives_the_same_gradients(mode: str) -> None:
    module = lora()
    x = torch.randn(2, 3, WIDTH, dtype=torch.float64, requires_grad=True)
    again = recomputed(lambda x: module(x).tanh(), mode, x)  # type: ignore[arg-type]  # a literal
    torch.testing.assert_close(gradients(again, module, x), gradients(module(x).tanh(), module, x))


def test_autocast_multiplies_in_its_precision() -> None:
    module = lora().float()
    x = torch.randn(4, WIDTH, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), by_one_matrix(module, x), atol=0.2, rtol=0.05)
    assert all(gradient.dtype == torch.float32 for gradient in gradients(y.float(), module, x))


def test_the_initial_a_is_a_pure_function_of_seed_and_name_as_wide_as_pefts() -> None:
    a = initial_a((64, 100), 1, "up.lora_a")
    assert torch.equal(a, initial_a((64, 100), 1, "up.lora_a"))
    assert not torch.equal(a, initial_a((64, 100), 2, "up.lora_a"))
    assert not torch.equal(a, initial_a((64, 100), 1, "down.lora_a"))
    theirs = torch.empty(64, 100)
    torch.nn.init.kaiming_uniform_(theirs, a=5**0.5)
    assert a.abs().max() <= 0.1 and theirs.abs().max() <= 0.1
    assert a.std() == pytest.approx(float(theirs.std()), rel=0.05)
