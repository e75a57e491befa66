"""Matmuls by oneDNN, against float64 and against torch's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fresh import run_fresh
from gptcli.nn import matmul, processor
from gptcli.nn.layers import Linear

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


class Operations(TorchDispatchMode):
    """Notes which operators are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))

    def count(self) -> int:
        return self.names.count("mkldnn._linear_pointwise.default")


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use oneDNN for every matmul, the smallest ones too."""
    monkeypatch.setattr(matmul, "MKL_IS_SLOW", True)
    monkeypatch.setattr(matmul, "LEAST_WORK", 0)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("lead", [(5,), (2, 7), (2, 3, 4)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.usefixtures("onednn")
def test_product_and_gradients_are_the_formulas(lead: tuple[int, ...], with_bias: bool) -> None:
    x, weight, bias = drawn(*lead, 24), drawn(40, 24, seed=1), drawn(40, seed=2) if with_bias else None
    gradient = torch.randn(*lead, 40)
    with Operations() as seen:
        y = matmul.linear(x, weight, bias)
        y.backward(gradient)
    assert seen.count() == 3  # the output, the gradient of the input, the gradient of the weight
    x64, weight64 = x.detach().double(), weight.detach().double()
    rows, row_gradient = x64.flatten(0, -2), gradient.double().flatten(0, -2)
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(y.double(), x64 @ weight64.T + (bias.detach().double() if with_bias else 0), **close)
    torch.testing.assert_close(x.grad.double(), gradient.double() @ weight64, **close)
    torch.testing.assert_close(weight.grad.double(), row_gradient.T @ rows, **close)
    if with_bias:
        torch.testing.assert_close(bias.grad.double(), row_gradient.sum(0), **close)


@pytest.mark.usefixtures("onednn")
def test_transposed_matrices_are_multiplied_too() -> None:
    a, b = drawn(30, 16), drawn(20, 30, seed=1)
    with Operations() as seen:
        y = matmul.matmul(a.mT, b.mT)
    assert seen.count() == 1
    torch.testing.assert_close(y, a.mT @ b.mT)


@pytest.mark.usefixtures("onednn")
def test_gradients_that_nobody_needs_are_not_computed() -> None:
    for x_needed, weight_needed in ((True, False), (False, True)):
        x, weight = drawn(6, 8).requires_grad_(x_needed), drawn(9, 8, seed=1).requires_grad_(weight_needed)
        with Operations() as seen:
            matmul.linear(x, weight).sum().backward()
        assert seen.count() == 2


@pytest.mark.usefixtures("onednn")
def test_gradients_of_gradients_are_those_of_torch() -> None:
    def twice(multiply: Callable[..., Tensor]) -> list[Tensor]:
        x, weight = drawn(6, 8), drawn(9, 8, seed=1)
        (first,) = torch.autograd.grad(multiply(x, weight).pow(3).sum(), x, create_graph=True)
        return list(torch.autograd.grad(first.square().sum(), (x, weight)))

    for ours, torchs in zip(twice(matmul.linear), twice(F.linear), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-2)


@pytest.mark.usefixtures("onednn")
def test_other_numbers_and_forms_are_left_to_torch() -> None:
    class Own(Tensor):
        pass

    x, weight = drawn(6, 8).detach(), drawn(9, 8, seed=1).detach()
    with Operations() as seen:
        assert matmul.linear(x.double(), weight.double()).dtype == torch.float64
        with torch.autocast("cpu", torch.bfloat16):
            assert matmul.linear(x, weight).dtype == torch.bfloat16
        matmul.linear(x, weight.as_subclass(Own))
        matmul.linear(x.to("meta"), weight.to("meta"))
    assert seen.count() == 0


def test_small_products_and_other_processors_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    linear, calls = Linear(64, 256), []
    nn.init.normal_(linear.weight)
    nn.init.zeros_(linear.bias)
    for is_slow in (True, False):
        monkeypatch.setattr(matmul, "MKL_IS_SLOW", is_slow)
        for rows in (255, 256):
            with Operations() as seen:
                linear(torch.ones(rows, 64))
            calls.append(seen.count())
    assert calls == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("maker", "has_avx512", "expected"),
    [("AuthenticAMD", True, True), ("AuthenticAMD", False, False), ("GenuineIntel", True, False)],
)
def test_which_processors_multiply_slowly_through_mkl(
    maker: str, has_avx512: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", lambda path, **options: f"vendor_id\t: {maker}\n")
        patch.setattr(torch.cpu, "_is_avx512_supported", lambda: has_avx512)
        processor.is_amd.cache_clear()
        assert processor.mkl_is_slow() == expected
    processor.is_amd.cache_clear()


def test_nothing_of_the_compiler_is_loaded_where_nothing_is_compiled() -> None:
    """It takes a second, which every start would wait for."""
    code = (
        "import sys, torch\n"
        "from gptcli.nn import matmul\n"
        "from gptcli.nn.dropout import drop\n"
        "matmul.MKL_IS_SLOW, matmul.LEAST_WORK = True, 0\n"
        "x, weight = torch.ones(3, 4, requires_grad=True), torch.ones(5, 4, requires_grad=True)\n"
        "drop(matmul.linear(x, weight), 0.5).sum().backward()\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    run_fresh(code)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses what torch deprecates
@pytest.mark.usefixtures("onednn")
def test_the_compiler_takes_products_into_its_graph() -> None:
    def loss(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return matmul.linear(matmul.linear(x, first).relu(), second).square().sum()

    def gradients(function: Callable[..., Tensor]) -> list[Tensor]:
        inputs = [drawn(2, 5, 8), drawn(16, 8, seed=1), drawn(8, 16, seed=2)]
        return list(torch.autograd.grad(function(*inputs), inputs))

    plain = gradients(loss)
    compiled = gradients(torch.compile(loss, fullgraph=True))
    for ours, expected in zip(compiled, plain, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-4)
