"""The optimizer for a config and a model's parameters, with the rate, the decay and the rule of each parameter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gptcli.nn.parameters import ParameterInfo
from gptcli.nn.sharding import Sharding
from gptcli.optim.config import AdamSettings, AdamWConfig, MuonConfig, OptimConfig, SgdConfig
from gptcli.optim.muon import Muon

FUSED_DEVICES = ("cpu", "cuda")
NS_DTYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16}


def build_optimizer(parameters: Sequence[ParameterInfo], config: OptimConfig) -> torch.optim.Optimizer:
    """Return one optimizer over all parameters that require a gradient, with one state_dict.

    Every group has `initial_lr`, which a schedule multiplies, `lr` and `param_names`. Only matrices, embeddings and
    head have weight decay; norms and biases have none.
    """
    load_no_compiler()
    infos = [info for info in parameters if info.tensor.requires_grad]
    match config:
        case SgdConfig():
            return build_sgd(infos, config)
        case AdamWConfig():
            groups = grouped(infos, lambda info: adamw_settings(info, config, config.lr))
            return torch.optim.AdamW(groups, fused=all(group["fused"] for group in groups))
        case MuonConfig():
            return build_muon(infos, config)


def load_no_compiler() -> None:
    """Prevent torch's optimizers from importing its compiler, which takes over a second and has no use here.

    The first call of each of these methods imports torch._dynamo for a version of it that is never traced, and keeps
    that in this attribute. No code here traces an optimizer, so the method itself does as well.
    """
    optimizer = torch.optim.Optimizer
    for method in (optimizer.add_param_group, optimizer.zero_grad, optimizer.state_dict, optimizer.load_state_dict):
        function = getattr(method, "__wrapped__", method)
        function.__dict__.setdefault("__dynamo_disable", function)


def build_sgd(infos: Sequence[ParameterInfo], config: SgdConfig) -> torch.optim.SGD:
    """Return SGD with zero velocities."""
    groups = grouped(infos, lambda info: {"lr": config.lr, "weight_decay": decay(info, config.weight_decay)})
    fused = all(info.tensor.device.type in FUSED_DEVICES for info in infos)
    sgd = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused)
    if config.momentum:
        # If the first step were a bad one, the fused kernel would use uninitialised memory as the velocity.
        for info in infos:
            sgd.state[info.tensor]["momentum_buffer"] = torch.zeros_like(info.tensor)
    return sgd


def build_muon(infos: Sequence[ParameterInfo], config: MuonConfig) -> Muon:
    """Return Muon for the matrices and AdamW for the other parameters, as one optimizer."""
    matrices = [info for info in infos if info.kind == "matrix"]
    rest = [info for info in infos if info.kind != "matrix"]
    muon = {
        "algorithm": "muon",
        "lr": config.lr,
        "weight_decay": config.weight_decay,
        "momentum": config.momentum,
        "nesterov": config.nesterov,
        "ns_steps": config.ns_steps,
        "adjust_lr": config.adjust_lr,
    }
    groups = grouped(matrices, lambda info: muon)
    for group in groups:
        group["splits"] = [info.splits for info in matrices]
    adamw_lr = config.adamw_lr or config.lr
    groups += grouped(rest, lambda info: {"algorithm": "adamw", **adamw_settings(info, config, adamw_lr)})
    shardings: dict[Tensor, Sharding] = {info.tensor: info.sharding for info in matrices if info.sharding}
    return Muon(groups, ns_dtype=NS_DTYPES[config.ns_precision], shardings=shardings)


def grouped(
    infos: Sequence[ParameterInfo], settings_of: Callable[[ParameterInfo], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return one parameter group for each set of settings, since each group needs a kernel launch or more a step."""
    groups: dict[tuple[tuple[str, Any], ...], dict[str, Any]] = {}
    for info in infos:
        settings = settings_of(info)
        fresh = {**settings, "initial_lr": settings["lr"], "params": []}
        groups.setdefault(tuple(settings.items()), fresh)["params"].append((info.name, info.tensor))
    return list(groups.values())


def adamw_settings(info: ParameterInfo, config: AdamSettings, lr: float) -> dict[str, Any]:
    """Return AdamW's settings of one parameter; `lr` is the rate of parameters that have no separate one."""
    own_lr = {"embedding": config.embedding_lr, "head": config.head_lr}.get(info.kind)
    return {
        "lr": own_lr or lr,
        "weight_decay": decay(info, config.weight_decay),
        "betas": (config.beta1, config.beta2),
        "eps": config.eps,
        "fused": info.tensor.device.type in FUSED_DEVICES if config.fused is None else config.fused,
    }


def decay(info: ParameterInfo, weight_decay: float) -> float:
    """Return the weight decay of one parameter."""
    return weight_decay if info.kind != "vector" and info.tensor.dim() >= 2 else 0.0
