"""Optimizer state through a checkpoint: the continuation is the same to the last bit, for every optimizer."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from gptcli.checkpoint.flatten import flatten_state, restore_state
from gptcli.checkpoint.load import load_checkpoint
from gptcli.checkpoint.save import save_checkpoint
from gptcli.errors import CheckpointError
from gptcli.nn.parameters import ParameterInfo
from gptcli.optim.build import build_optimizer
from gptcli.optim.config import AdamWConfig, MuonConfig, SgdConfig

CONFIGS = [
    SgdConfig(lr=0.05),
    SgdConfig(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    AdamWConfig(lr=0.01),
    AdamWConfig(lr=0.01, fused=False),
    MuonConfig(lr=0.01),
    MuonConfig(lr=0.02, fused=False, nesterov=False, adjust_lr="original"),
]


class Small(nn.Module):
    """Two fused matrices, a norm and an embedding; the loss depends on the batch alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(9, 8)
        self.qkv = nn.Linear(8, 24, bias=False)
        self.norm = nn.LayerNorm(8)

    def infos(self) -> list[ParameterInfo]:
        kinds = {
            "embedding.weight": "embedding",
            "qkv.weight": "matrix",
            "norm.weight": "vector",
            "norm.bias": "vector",
        }
        splits = {"qkv.weight": (8, 8, 8)}
        return [ParameterInfo(name, p, kinds[name], splits.get(name, ())) for name, p in self.named_parameters()]

    def loss(self, ids: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(self.embedding(ids))).chunk(3, dim=-1)
        return ((q @ k.mT).softmax(-1) @ v).square().mean()


def train(model: Small, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        ids = torch.randint(9, (4, 6), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model.loss(ids).backward()
        optimizer.step()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.name}")
def test_a_run_continued_from_a_checkpoint_ends_with_the_same_bits(run, config) -> None:
    whole = Small()
    optimizer = build_optimizer(whole.infos(), config)
    train(whole, optimizer, range(5))
    tensors, rest = flatten_state(optimizer)
    save_checkpoint(run, 5, {"model": whole.state_dict(), "optimizer": tensors}, {"optimizer": rest})
    train(whole, optimizer, range(5, 12))

    resumed = Small()
    train(resumed, build_optimizer(resumed.infos(), config), range(90, 93))  # wherever it stood before
    checkpoint = load_checkpoint(run.checkpoint_path(5), parts=("model", "optimizer"))
    resumed.load_state_dict(checkpoint.tensors["model"])
    again = build_optimizer(resumed.infos(), config)
    restore_state(again, checkpoint.tensors["optimizer"], checkpoint.state["optimizer"])
    train(resumed, again, range(5, 12))

    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    ours, theirs = flatten_state(again), flatten_state(optimizer)
    assert ours[1] == theirs[1]
    assert ours[0].keys() == theirs[0].keys()
    assert all(
        torch.equal(ours[0][key], tensor) and ours[0][key].dtype == tensor.dtype for key, tensor in theirs[0].items()
    )


@pytest.mark.parametrize("config", [AdamWConfig(), MuonConfig()], ids=lambda config: config.name)
def test_without_its_moments_the_continuation_would_differ(config) -> None:
    kept, lost = Small(), Small()
    optimizer = build_optimizer(kept.infos(), config)
    train(kept, optimizer, range(5))
    lost.load_state_dict(kept.state_dict())
    train(kept, optimizer, range(5, 8))
    train(lost, build_optimizer(lost.infos(), config), range(5, 8))
    assert not torch.equal(kept.qkv.weight, lost.qkv.weight)


def test_state_is_named_after_its_parameter_and_the_rest_is_json() -> None:
    model = Small()
    optimizer = build_optimizer(model.infos(), MuonConfig())
    train(model, optimizer, range(1))
    tensors, rest = flatten_state(optimizer)
    assert {"qkv.weight/momentum_buffer", "embedding.weight/exp_avg", "norm.bias/step"} <= tensors.keys()
    assert json.loads(json.dumps(rest)) == rest


def test_settings_are_the_new_optimizers_own() -> None:
    model = Small()
    optimizer = build_optimizer(model.infos(), AdamWConfig(lr=0.01))
    train(model, optimizer, range(1))
    changed = build_optimizer(model.infos(), AdamWConfig(lr=0.5, weight_decay=0.3))
    restore_state(changed, *flatten_state(optimizer))
    assert {group["lr"] for group in changed.param_groups} == {0.5}
    assert {group["weight_decay"] for group in changed.param_groups} == {0.3, 0.0}


def test_parameters_may_come_in_another_order() -> None:
    model = Small()
    optimizer = build_optimizer(model.infos(), AdamWConfig())
    train(model, optimizer, range(1))
    reordered = build_optimizer(model.infos()[::-1], AdamWConfig())
    restore_state(reordered, *flatten_state(optimizer))
    for parameter in model.parameters():
        assert torch.equal(reordered.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg"])


def test_the_state_of_another_optimizer_is_refused() -> None:
    flat = flatten_state(build_optimizer(Small().infos(), SgdConfig()))
    with pytest.raises(CheckpointError, match="is of SGD, not of AdamW"):
        restore_state(build_optimizer(Small().infos(), AdamWConfig()), *flat)


def test_the_state_of_other_parameters_is_refused_and_one_is_named() -> None:
    flat = flatten_state(build_optimizer(Small().infos()[1:], AdamWConfig()))
    with pytest.raises(CheckpointError, match=r"embedding\.weight"):
        restore_state(build_optimizer(Small().infos(), AdamWConfig()), *flat)
