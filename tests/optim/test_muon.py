"""Muon against torch.optim.Muon, torch.optim.AdamW and the singular value decomposition."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gptcli.nn.parameters import ParameterInfo
from gptcli.optim import muon as muon_module
from gptcli.optim.build import build_optimizer
from gptcli.optim.config import AdamWConfig, MuonConfig
from gptcli.optim.muon import Muon, newton_schulz

SHAPES = [(16, 8), (8, 16), (8, 8), (8, 8), (16, 8)]


@pytest.fixture
def torch_muon_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.optim.Muon iterates in bf16 by a cast that leaves no choice; without the cast it is the fp32 reference."""
    monkeypatch.setattr(Tensor, "bfloat16", Tensor.clone)


def matrices(shapes=SHAPES) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(5)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def as_infos(parameters: list[nn.Parameter], splits: tuple[int, ...] = ()) -> list[ParameterInfo]:
    return [ParameterInfo(f"blocks.{i}.weight", p, "matrix", splits) for i, p in enumerate(parameters)]


def run_both(ours: torch.optim.Optimizer, reference: torch.optim.Optimizer, gradients: Callable[[int], None]) -> None:
    for step in range(6):
        gradients(step)
        ours.step()
        reference.step()


@pytest.mark.parametrize("adjust_lr", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_torchs_step_for_step(adjust_lr, nesterov, give_gradients, torch_muon_in_fp32) -> None:
    ours, reference = matrices(), matrices()
    config = MuonConfig(lr=0.02, weight_decay=0.1, momentum=0.9, nesterov=nesterov, ns_steps=4, adjust_lr=adjust_lr)
    config = config.model_copy(update={"ns_precision": "fp32"})
    optimizer = build_optimizer(as_infos(ours), config)
    torchs = torch.optim.Muon(
        reference, lr=0.02, weight_decay=0.1, momentum=0.9, nesterov=nesterov, ns_steps=4, adjust_lr_fn=adjust_lr
    )
    for step in range(6):
        give_gradients(ours, step)
        give_gradients(reference, step)
        optimizer.step()
        torchs.step()
        for a, b in zip(ours, reference, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6)


def test_muon_in_bf16_is_torchs(give_gradients) -> None:
    ours, reference = matrices(), matrices()
    optimizer = build_optimizer(as_infos(ours), MuonConfig(lr=0.02))
    optimizer.ns_dtype = torch.bfloat16
    torchs = torch.optim.Muon(reference, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")

    def gradients(step: int) -> None:
        give_gradients(ours, step)
        give_gradients(reference, step)

    run_both(optimizer, torchs, gradients)
    for a, b, start in zip(ours, reference, matrices(), strict=True):
        # Both round to 8 bits at every product, in another order; the distance is measured against the way gone.
        assert (a - b).norm() < 0.02 * (a - start).norm()


def test_fused_matrices_are_updated_as_separate_ones(give_gradients, torch_muon_in_fp32) -> None:
    splits = (8, 4, 4)
    ours = matrices([(16, 8), (16, 8)])
    parts = [[nn.Parameter(rows.detach().clone()) for rows in parameter.split(splits)] for parameter in ours]
    optimizer = build_optimizer(as_infos(ours, splits), MuonConfig(lr=0.02, ns_precision="fp32"))
    torchs = torch.optim.Muon(
        [part for rows in parts for part in rows], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )

    def gradients(step: int) -> None:
        give_gradients(ours, step)
        for parameter, rows in zip(ours, parts, strict=True):
            for part, gradient in zip(rows, parameter.grad.split(splits), strict=True):
                part.grad = gradient.clone()

    run_both(optimizer, torchs, gradients)
    for parameter, rows in zip(ours, parts, strict=True):
        torch.testing.assert_close(parameter, torch.cat([*rows]), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("fused", [False, True])
def test_the_rest_is_torchs_adamw_bit_for_bit(fused, make_infos, give_gradients) -> None:
    ours, reference = make_infos(), make_infos()
    optimizer = build_optimizer(ours, MuonConfig(adamw_lr=2e-3, embedding_lr=1e-2, fused=fused))
    # The matrices are in the reference too, so that what is compared has the same gradients.
    torchs = build_optimizer(reference, AdamWConfig(lr=2e-3, embedding_lr=1e-2, fused=fused))
    assert type(torchs) is torch.optim.AdamW

    def gradients(step: int) -> None:
        give_gradients([info.tensor for info in ours], step)
        give_gradients([info.tensor for info in reference], step)

    run_both(optimizer, torchs, gradients)
    for a, b in zip(ours, reference, strict=True):
        assert torch.equal(a.tensor, b.tensor) == (a.kind != "matrix"), a.name


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8)])
def test_newton_schulz_keeps_singular_vectors_and_brings_singular_values_near_one(shape) -> None:
    batch = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, vh = torch.linalg.svd(batch, full_matrices=False)
    inside = u.mT @ newton_schulz(batch, 8, torch.float64) @ vh.mT
    values = inside.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(inside, torch.diag_embed(values), rtol=0, atol=1e-9)
    assert ((values > 0.65) & (values < 1.25)).all()


def test_a_zero_gradient_gives_a_zero_update() -> None:
    assert torch.equal(newton_schulz(torch.zeros(2, 4, 3), 5, torch.float32), torch.zeros(2, 4, 3))


def test_small_batches_give_the_same_update_as_large_ones(give_gradients, monkeypatch) -> None:
    large, small = matrices(), matrices()
    for parameters, limit in ((large, 2**26), (small, 1)):
        monkeypatch.setattr(muon_module, "MAX_MUON_BATCH", limit)
        give_gradients(parameters, 0)
        build_optimizer(as_infos(parameters), MuonConfig()).step()
    for a, b in zip(large, small, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_a_parameter_without_gradient_does_not_move(make_infos, give_gradients) -> None:
    infos, untouched = make_infos(), make_infos()
    give_gradients([info.tensor for info in infos[::2]], 0)
    build_optimizer(infos, MuonConfig()).step()
    for position, (info, before) in enumerate(zip(infos, untouched, strict=True)):
        assert torch.equal(info.tensor, before.tensor) == (position % 2 == 1), info.name


def test_a_closure_is_evaluated_with_gradients() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = build_optimizer(as_infos([weight]), MuonConfig())
    assert isinstance(optimizer, Muon)

    def closure() -> Tensor:
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert weight.grad is not None
