"""The head and its loss in one against the plain formula: numbers, gradients, and how much is held at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gptcli.nn import loss as losses
from gptcli.nn.layers import Embedding
from gptcli.nn.loss import (
    IGNORE_INDEX,
    TrainedHeadRows,
    cross_entropy_sum,
    head_logits,
    head_loss_sum,
    head_token_losses,
    softcapped,
    token_losses,
)

V, C = 1100, 16
"""Above LARGE_VOCABULARY, so that the path of large vocabularies is taken."""


class Sizes(TorchDispatchMode):
    """Notes how large all new tensors are, in numbers; what shares an argument's memory is not new."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        old = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.seen += [leaf.numel() for leaf in made if leaf.untyped_storage()._cdata not in old]
        return result


def inputs(dtype: torch.dtype = torch.float64, vocabulary: int = V) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 7, C, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, C, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(vocabulary, (3, 7), generator=generator)
    targets[0, :2] = targets[2, 6] = IGNORE_INDEX
    return x, weight, targets


def with_gradients(function: Any, x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    loss = function(x, weight, *rest) / 18
    return (loss.detach(), *torch.autograd.grad(loss, (x, weight)))


def plain(x: Tensor, weight: Tensor, targets: Tensor, softcap: float | None = None) -> Tensor:
    return cross_entropy_sum(head_logits(x, weight, softcap), targets)


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("rows_at_once", [100, 21, 10, 1])
def test_head_and_loss_in_one_are_the_formula(
    softcap: float | None, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "MAX_LOGITS", rows_at_once * V)
    x, weight, targets = inputs()
    found = with_gradients(head_loss_sum, x, weight, targets, softcap)
    torch.testing.assert_close(found, with_gradients(plain, x, weight, targets, softcap), rtol=1e-12, atol=1e-14)
    with torch.no_grad():
        assert head_loss_sum(x, weight, targets, softcap).item() == pytest.approx(18 * found[0].item(), rel=1e-12)
        each = head_token_losses(x, weight, targets, softcap)
        torch.testing.assert_close(each, token_losses(head_logits(x, weight, softcap), targets), rtol=1e-12, atol=1e-14)
        assert each.sum().item() == pytest.approx(18 * found[0].item(), rel=1e-12)


@pytest.mark.parametrize("vocabulary", [50, V])
@pytest.mark.parametrize("rows_at_once", [100, 4])
def test_a_frozen_head_gives_the_same_gradient_of_its_input_and_keeps_no_logits(
    vocabulary: int, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "MAX_LOGITS", rows_at_once * V)
    x, weight, targets = inputs(vocabulary=vocabulary)
    expected = with_gradients(plain, x, weight, targets)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.numel()) or one, lambda one: one):
        loss = head_loss_sum(x, weight.detach(), targets) / 18
    torch.testing.assert_close((loss, *torch.autograd.grad(loss, x)), expected[:2], rtol=1e-12, atol=1e-14)
    assert max(kept) < 21 * V or vocabulary < V


@pytest.mark.parametrize("vocabulary", [50, V])
def test_the_head_is_computed_for_the_targets_that_count_alone_where_they_are_few(vocabulary: int) -> None:
    x, weight, targets = inputs(vocabulary=vocabulary)
    targets[:2, 1:] = IGNORE_INDEX  # 7 of 21 are left
    expected = with_gradients(plain, x, weight, targets)
    with Sizes() as sizes:
        loss = head_loss_sum(x, weight, targets) / 18
    torch.testing.assert_close((loss, *torch.autograd.grad(loss, (x, weight))), expected, rtol=1e-12, atol=1e-14)
    assert max(sizes.seen) <= 7 * vocabulary
    targets[:] = IGNORE_INDEX
    assert head_loss_sum(x, weight, targets).item() == 0


def test_finite_differences_agree_with_head_and_loss_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "LARGE_VOCABULARY", 5)
    x, weight, targets = inputs(vocabulary=5)
    for most in (1000, 20):
        monkeypatch.setattr(losses, "MAX_LOGITS", most)
        assert torch.autograd.gradcheck(lambda x, weight: head_loss_sum(x, weight, targets, 2.0), (x, weight))


@pytest.mark.parametrize("rows_at_once", [100, 10])
def test_token_losses_have_the_gradients_of_the_formula(rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token with a factor of its own, as preferences give it."""
    monkeypatch.setattr(losses, "MAX_LOGITS", rows_at_once * V)
    x, weight, targets = inputs()
    factors = torch.randn(targets.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def by_chunks(*arguments: Any) -> Tensor:
        return (factors * head_token_losses(*arguments)).sum()

    def at_once(x: Tensor, weight: Tensor, targets: Tensor, softcap: float | None) -> Tensor:
        return (factors * token_losses(head_logits(x, weight, softcap), targets)).sum()

    found, expected = (with_gradients(function, x, weight, targets, 1.5) for function in (by_chunks, at_once))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_fp32_is_as_close_to_float64_as_the_plain_formula_is() -> None:
    exact = with_gradients(plain, *inputs())
    errors = [
        [
            (a.double() - b).norm() / b.norm()
            for a, b in zip(with_gradients(f, *inputs(torch.float32)), exact, strict=True)
        ]
        for f in (head_loss_sum, plain)
    ]
    assert all(ours < max(2 * theirs, 1e-7) for ours, theirs in zip(*errors, strict=True))


@pytest.mark.parametrize("rows_at_once", [100, 10])
def test_autocast_stays_close_to_fp32(rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "MAX_LOGITS", rows_at_once * V)
    for dtype in (torch.bfloat16, torch.float16):
        x, weight, targets = inputs(torch.float32)
        exact = with_gradients(plain, x, weight, targets)
        with torch.autocast("cpu", dtype=dtype):
            rough = with_gradients(head_loss_sum, x, weight, targets)
        assert all(tensor.dtype == torch.float32 for tensor in rough)
        for a, b in zip(rough, exact, strict=True):
            assert (a - b).norm() < 0.02 * b.norm()


def test_all_logits_are_never_there_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "MAX_LOGITS", 6 * V)
    x, weight, targets = inputs(torch.float32)
    assert len(targets.flatten()) * V > V * C
    with Sizes() as sizes:
        with_gradients(head_loss_sum, x, weight, targets)
    assert max(sizes.seen) == V * C, "the weight's gradient is the largest; six rows of logits are less"
    with Sizes() as sizes:
        with_gradients(plain, x, weight, targets)
    assert max(sizes.seen) == targets.numel() * V, "the plain formula is seen to hold them"


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's tracer does it itself
@pytest.mark.parametrize("rows_at_once", [100, 10])
def test_the_compiler_takes_head_and_loss_as_one_graph(rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "MAX_LOGITS", rows_at_once * V)
    torch._dynamo.reset()
    compiled = torch.compile(head_loss_sum, backend="aot_eager", fullgraph=True)
    arguments = (*inputs(), 3.0)
    found = with_gradients(compiled, *arguments)
    torch.testing.assert_close(found, with_gradients(plain, *arguments), rtol=1e-12, atol=1e-14)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("rows_at_once", [1000, 300])
def test_compiled_for_a_gpu_head_and_loss_have_the_formulas_gradients(
    rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of as many rows and entries as it takes for several blocks of the GPU to work on one of them."""
    vocabulary, width = 50257, 64
    monkeypatch.setattr(losses, "MAX_LOGITS", rows_at_once * vocabulary)
    torch._dynamo.reset()
    generator = torch.Generator("cuda").manual_seed(0)
    x = torch.randn(2, 450, width, device="cuda", generator=generator).requires_grad_()
    weight = torch.randn(vocabulary, width, device="cuda", generator=generator).mul_(0.1).requires_grad_()
    targets = torch.randint(vocabulary, (2, 450), device="cuda", generator=generator)
    targets[0, :5] = IGNORE_INDEX
    exact = with_gradients(plain, x.double(), weight.double(), targets)
    compiled = torch.compile(head_loss_sum, fullgraph=True, dynamic=False)
    for gradients, error in ((with_gradients, 1e-5), (with_gradients_in_bf16, 0.02)):
        found = gradients(compiled, x, weight, targets)
        for a, b in zip(found, exact, strict=True):
            assert (a - b).norm() < error * b.norm()


def with_gradients_in_bf16(function: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast("cuda", dtype=torch.bfloat16):
        return with_gradients(function, *arguments)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("vocabulary", [losses.LARGE_VOCABULARY - 1, losses.LARGE_VOCABULARY])
def test_trained_rows_of_a_frozen_head_have_the_gradients_of_a_whole_one(
    monkeypatch: pytest.MonkeyPatch, vocabulary: int, softcap: float | None
) -> None:
    monkeypatch.setattr(losses, "MAX_LOGITS", 5 * vocabulary)  # chunks of five rows
    generator = torch.Generator().manual_seed(3)
    x, weight, rows = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, 9, 4), (vocabulary, 4), (2, 4))
    )
    ids, targets = torch.tensor([3, vocabulary - 1]), torch.randint(vocabulary, (2, 9), generator=generator)
    targets[0, :2], targets[1, 1:8] = ids, IGNORE_INDEX
    x.requires_grad_(), rows.requires_grad_()
    found = 0.5 * head_loss_sum(x, weight, targets, softcap, TrainedHeadRows(ids, rows))
    logits = softcapped(x @ weight.index_copy(0, ids, rows).T, softcap)
    expected = 0.5 * cross_entropy_sum(logits, targets)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, (x, rows)), torch.autograd.grad(expected, (x, rows)))


@pytest.fixture
def table() -> Embedding:
    embedding = Embedding(9, 4)
    nn.init.normal_(embedding.weight, generator=torch.Generator().manual_seed(2))
    return embedding.double()


def test_a_shared_table_has_the_gradient_of_its_two_uses(table: Embedding) -> None:
    ids = torch.tensor([[3, 3, 0], [8, 3, 1]])
    mix = torch.randn(9, 4, dtype=torch.float64)

    def value(vectors: Tensor, weight: Tensor) -> Tensor:
        return (vectors.sin() @ weight.T).cos().sum() + (weight * mix).sum()

    shared = torch.autograd.grad(value(*table.look_up_and_share(ids)), table.weight)
    separate = torch.autograd.grad(value(table(ids), table.weight), table.weight)
    torch.testing.assert_close(shared, separate, rtol=1e-13, atol=1e-14)
    rows_alone = torch.autograd.grad(table.look_up_and_share(ids)[0].sin().sum(), table.weight)
    torch.testing.assert_close(rows_alone, torch.autograd.grad(table(ids).sin().sum(), table.weight))


def test_a_shared_table_makes_no_gradient_of_its_size_besides_the_heads(table: Embedding) -> None:
    ids = torch.tensor([[3, 3], [8, 1]])
    vectors, weight = table.look_up_and_share(ids)
    loss = vectors.sum() + (torch.ones(1, 9, dtype=torch.float64) @ weight).sum()
    with Sizes() as sizes:
        loss.backward()
    assert [size for size in sizes.seen if size >= 9 * 4] == [9 * 4]
