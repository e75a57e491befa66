"""An optimizer's state as named tensors and JSON, and back, so that no pickle is needed, for any kind of optimizer.

Only moments and counters are saved; learning rates, decay and the like come from the config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gptcli.errors import CheckpointError


def flatten_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split the optimizer's state into tensors, named PARAMETER/FIELD, and a rest that JSON can hold.

    PARAMETER is the parameter's name if the optimizer was built with names, otherwise its number.
    """
    state_dict = optimizer.state_dict()
    names = parameter_names(state_dict["param_groups"])
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, fields in state_dict["state"].items():
        name = names[index]
        tensors |= {f"{name}/{field}": value for field, value in fields.items() if isinstance(value, Tensor)}
        scalars[name] = {field: value for field, value in fields.items() if not isinstance(value, Tensor)}
    return tensors, {"optimizer": type(optimizer).__name__, "parameters": list(names.values()), "state": scalars}


def restore_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Load the state that `flatten_state` returned into `optimizer`, bit for bit; its settings stay.

    Raises:
        CheckpointError: the state belongs to other parameters or another kind of optimizer.
    """
    remedy = "resume with the model and optimizer of the run"
    kind, groups = type(optimizer).__name__, optimizer.state_dict()["param_groups"]
    if rest["optimizer"] != kind:
        raise CheckpointError(f"the saved optimizer state is of {rest['optimizer']}, not of {kind}", remedy)
    indices = {name: index for index, name in parameter_names(groups).items()}
    different = sorted(set(indices).symmetric_difference(rest["parameters"]))
    if different:
        raise CheckpointError(f"the saved optimizer state is of other parameters (such as {different[0]})", remedy)
    state = {indices[name]: dict(fields) for name, fields in rest["state"].items()}
    for key, tensor in tensors.items():
        name, _, field = key.rpartition("/")
        state[indices[name]][field] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def parameter_names(groups: list[dict[str, Any]]) -> dict[int, str]:
    """Return the name of each parameter number, or the number as text."""
    return {
        index: name
        for group in groups
        for index, name in zip(group["params"], group.get("param_names") or map(str, group["params"]), strict=True)
    }
