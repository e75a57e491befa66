"""Optimizers against closed forms and torch.optim, and which parameter gets which rate and decay."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fresh import run_fresh
from gptcli.nn.parameters import ParameterInfo
from gptcli.optim.build import build_optimizer
from gptcli.optim.config import AdamWConfig, MuonConfig, SgdConfig

DECAYING = [SgdConfig(weight_decay=0.1), AdamWConfig(), MuonConfig()]


def single(value: torch.Tensor, kind: str = "matrix") -> list[ParameterInfo]:
    return [ParameterInfo("weight", nn.Parameter(value.clone()), kind)]


def settings_by_name(optimizer: torch.optim.Optimizer, key: str) -> dict[str, float]:
    return {name: group[key] for group in optimizer.param_groups for name in group["param_names"]}


def test_one_sgd_step_on_least_squares_is_minus_lr_times_the_derivative_by_hand() -> None:
    # E(w) = |X w - y|^2 / 2 with X = [[1, 2], [3, 4]], y = [5, 6] and w = [0.5, -1]: X w - y = [-6.5, -8.5], so
    # dE/dw = X^T (X w - y) = [-6.5 - 25.5, -13 - 34] = [-32, -47].
    x, y = torch.tensor([[1.0, 2], [3, 4]], dtype=torch.float64), torch.tensor([[5.0], [6]], dtype=torch.float64)
    infos = single(torch.tensor([[0.5], [-1]], dtype=torch.float64))
    weight = infos[0].tensor
    (0.5 * (x @ weight - y).square().sum()).backward()
    build_optimizer(infos, SgdConfig(lr=0.01)).step()
    expected = torch.tensor([[0.5 + 0.32], [-1 + 0.47]], dtype=torch.float64)
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-15, atol=0)


def test_one_sgd_step_of_a_gpt_moves_each_weight_by_minus_lr_times_its_finite_difference() -> None:
    from gptcli.models.config import ModelConfig
    from gptcli.models.gpt import build_model

    shape = {"vocab_size": 7, "context_length": 6, "n_layer": 1, "n_head": 2, "n_embd": 8}
    model = build_model(ModelConfig.model_validate(shape), seed=3, dtype=torch.float64)
    ids = torch.randint(7, (2, 7), generator=torch.Generator().manual_seed(0))
    batch = (ids[:, :-1], ids[:, 1:])
    infos, step = model.parameter_infos(), 1e-5
    slopes = {}
    with torch.no_grad():
        for info in infos:
            flat = info.tensor.view(-1)
            place = flat.abs().argmax()
            kept = flat[place].item()
            flat[place] = kept + step
            above = model.loss_sum(*batch)
            flat[place] = kept - step
            below = model.loss_sum(*batch)
            flat[place] = kept
            slopes[info.name] = (place, kept, (above - below).item() / (2 * step))
    model.loss_sum(*batch).backward()
    build_optimizer(infos, SgdConfig(lr=0.1)).step()
    for info in infos:
        place, before, slope = slopes[info.name]
        assert info.tensor.view(-1)[place].item() - before == pytest.approx(-0.1 * slope, rel=1e-5, abs=1e-9), info.name


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_follows_its_recurrence(nesterov: bool, give_gradients) -> None:
    infos = single(torch.ones(3, 2, dtype=torch.float64))
    weight = infos[0].tensor
    optimizer = build_optimizer(infos, SgdConfig(lr=0.1, momentum=0.9, nesterov=nesterov))
    expected, velocity = weight.detach().clone(), torch.zeros(3, 2, dtype=torch.float64)
    for step in range(4):
        give_gradients([weight], step)
        velocity = 0.9 * velocity + weight.grad
        expected = expected - 0.1 * (weight.grad + 0.9 * velocity if nesterov else velocity)
        optimizer.step()
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("fused", [False, True])
def test_adamw_follows_the_papers_formula(fused: bool, give_gradients) -> None:
    config = AdamWConfig(lr=0.01, beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.2, fused=fused)
    infos = single(torch.ones(3, 2, dtype=torch.float64))
    weight = infos[0].tensor
    optimizer = build_optimizer(infos, config)
    w, m, v = weight.detach().clone(), torch.zeros(3, 2).double(), torch.zeros(3, 2).double()
    for t in range(1, 6):
        give_gradients([weight], t)
        g = weight.grad
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        m_hat, v_hat = m / (1 - 0.8**t), v / (1 - 0.9**t)
        w = w - 0.01 * 0.2 * w - 0.01 * m_hat / (v_hat.sqrt() + 1e-6)
        optimizer.step()
    torch.testing.assert_close(weight.detach(), w, rtol=1e-12, atol=0)


def test_adamw_is_torchs(make_infos, give_gradients) -> None:
    ours, reference = make_infos(), make_infos()
    optimizer = build_optimizer(ours, AdamWConfig(lr=3e-3))
    decayed = [info.tensor for info in reference if info.kind != "vector"]
    rest = [info.tensor for info in reference if info.kind == "vector"]
    torchs = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=3e-3, betas=(0.9, 0.95)
    )
    for step in range(5):
        give_gradients([info.tensor for info in ours], step)
        give_gradients([info.tensor for info in reference], step)
        optimizer.step()
        torchs.step()
    for a, b in zip(ours, reference, strict=True):
        torch.testing.assert_close(a.tensor, b.tensor, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("config", DECAYING, ids=lambda config: config.name)
def test_decay_shrinks_matrices_and_never_norms_and_biases(config, make_infos) -> None:
    infos = make_infos()
    before = {info.name: info.tensor.detach().clone() for info in infos}
    for info in infos:
        info.tensor.grad = torch.zeros_like(info.tensor)
    build_optimizer(infos, config).step()
    for info in infos:
        expected = before[info.name] * (1.0 if info.kind == "vector" else 1 - config.lr * 0.1)
        torch.testing.assert_close(info.tensor.detach(), expected, rtol=1e-6, atol=0, msg=info.name)


@pytest.mark.parametrize("config", DECAYING, ids=lambda config: config.name)
def test_every_parameter_is_in_exactly_one_group_with_its_initial_rate(config, make_infos) -> None:
    infos = make_infos()
    optimizer = build_optimizer(infos, config)
    names = [name for group in optimizer.param_groups for name in group["param_names"]]
    assert sorted(names) == sorted(info.name for info in infos)
    assert all(group["initial_lr"] == group["lr"] for group in optimizer.param_groups)


@pytest.mark.parametrize("kind", [AdamWConfig, MuonConfig])
def test_embeddings_and_head_may_have_rates_of_their_own(kind: type, make_infos) -> None:
    rates = settings_by_name(build_optimizer(make_infos(), kind(lr=1e-3, embedding_lr=3e-2, head_lr=2e-2)), "lr")
    assert rates.pop("embedding.weight") == 3e-2
    assert rates.pop("head.weight") == 2e-2
    assert set(rates.values()) == {1e-3}


def test_muon_gets_exactly_the_matrices(make_infos) -> None:
    optimizer = build_optimizer(make_infos(), MuonConfig(lr=0.02, adamw_lr=3e-4))
    algorithms, rates = settings_by_name(optimizer, "algorithm"), settings_by_name(optimizer, "lr")
    for info in make_infos():
        expected = ("muon", 0.02) if info.kind == "matrix" else ("adamw", 3e-4)
        assert (algorithms[info.name], rates[info.name]) == expected, info.name


def test_a_frozen_parameter_is_left_alone(make_infos, give_gradients) -> None:
    infos = make_infos()
    infos[1].tensor.requires_grad_(False)
    optimizer = build_optimizer(infos, AdamWConfig())
    assert infos[1].name not in settings_by_name(optimizer, "lr")


def test_as_few_groups_are_made_as_there_are_settings(make_infos) -> None:
    sizes = [len(build_optimizer(make_infos(), config).param_groups) for config in (SgdConfig(), *DECAYING)]
    assert sizes == [1, 2, 2, 3]


@pytest.mark.parametrize("config", [SgdConfig(lr=0.02, momentum=0.9), AdamWConfig(lr=0.02), MuonConfig(lr=0.1)])
def test_every_optimizer_descends(config) -> None:
    generator = torch.Generator().manual_seed(0)
    target, inputs = torch.randn(6, 4, generator=generator), torch.randn(64, 4, generator=generator)
    infos = single(torch.zeros(6, 4))
    optimizer = build_optimizer(infos, config)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = (inputs @ (infos[0].tensor - target).T).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert math.isfinite(losses[-1]) and losses[-1] < 0.1 * losses[0]


def test_muon_trains_without_torchs_compiler_in_memory() -> None:
    """Importing it takes longer than all else that a short run does before its first step."""
    code = (
        "import sys, torch\n"
        "from gptcli.nn.parameters import ParameterInfo\n"
        "from gptcli.optim.build import build_optimizer\n"
        "from gptcli.optim.config import MuonConfig\n"
        "weight = torch.nn.Parameter(torch.ones(2, 2))\n"
        "optimizer = build_optimizer([ParameterInfo('weight', weight, 'matrix')], MuonConfig())\n"
        "weight.grad = torch.ones(2, 2)\n"
        "optimizer.step()\n"
        "optimizer.load_state_dict(optimizer.state_dict())\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    run_fresh(code)
