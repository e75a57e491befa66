"""An optimizer's state as named tensors and JSON, and back, so that no pickle is needed. Knows no kind of optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gptcli.errors import CheckpointError


def flatten_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split the optimizer's `state_dict` into tensors, named PARAMETER/FIELD, and a JSON-able rest.

    A parameter is called by its name if the optimizer was built with names, otherwise by its number.
    """
    state_dict = optimizer.state_dict()
    names = parameter_names(state_dict["param_groups"])
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, fields in state_dict["state"].items():
        name = names[index]
        tensors |= {f"{name}/{field}": value for field, value in fields.items() if isinstance(value, Tensor)}
        scalars[name] = {field: value for field, value in fields.items() if not isinstance(value, Tensor)}
    return tensors, {"param_groups": state_dict["param_groups"], "state": scalars}


def restore_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Give `optimizer` the state that `flatten_state` took apart, bit for bit.

    Raises:
        CheckpointError: the state is of other parameters, or of another kind of optimizer.
    """
    saved, own = parameter_names(rest["param_groups"]), parameter_names(optimizer.state_dict()["param_groups"])
    if saved != own:
        different = next(
            (name for name in [*own.values(), *saved.values()] if name not in saved.values()), "their order"
        )
        raise CheckpointError(
            f"the saved optimizer state is of other parameters (first difference: {different})",
            "resume with the model and optimizer settings of the run",
        )
    state = {index: dict(rest["state"][name]) for index, name in saved.items() if name in rest["state"]}
    indices = {name: index for index, name in saved.items()}
    for key, tensor in tensors.items():
        name, _, field = key.rpartition("/")
        state[indices[name]][field] = tensor
    try:
        optimizer.load_state_dict({"state": state, "param_groups": rest["param_groups"]})
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"the saved optimizer state does not fit {type(optimizer).__name__}: {error}",
            "resume with the optimizer settings of the run",
        ) from error


def parameter_names(groups: list[dict[str, Any]]) -> dict[int, str]:
    """Parameter number -> name, or the number as text."""
    return {
        index: name
        for group in groups
        for index, name in zip(group["params"], group.get("param_names") or map(str, group["params"]), strict=True)
    }
