"""Linear maps whose matmuls are in 8-bit floats while training (Micikevicius et al. 2022, arXiv:2209.05433).

Weights, gradients and moments stay fp32, and so does everything that is saved: only the operands of the three matmuls
of a linear map (output, gradient of the input, gradient of the weight) are rounded, with one scale a tensor.
torchao does the arithmetic.
"""

from __future__ import annotations

import importlib.util
import logging

import torch
from torch import nn

from gptcli.errors import UsageError, missing_extra
from gptcli.nn.layers import Linear

LEAST_CAPABILITY = (8, 9)
"""The CUDA capability from which on a device has 8-bit matmuls (Ada)."""
DIVISOR = 16
"""The kernels need both widths of a matrix to be multiples of this; other matrices stay in full precision."""


def require_float8(device: torch.device) -> None:
    """Check that `device` can train in 8 bits; a CPU emulates it, slowly.

    Raises:
        UsageError: torchao is not installed, or `device` has no 8-bit matmuls.
    """
    if importlib.util.find_spec("torchao") is None:
        raise missing_extra("torchao", "fp8", "precision fp8")
    is_old = device.type == "cuda" and torch.cuda.get_device_capability(device) < LEAST_CAPABILITY
    if is_old or device.type not in ("cuda", "cpu"):
        raise UsageError(f"{device} has no 8-bit matmuls", "use bf16")


def to_float8(module: nn.Module, device: torch.device) -> None:
    """Replace every linear map below `module` that suits the kernels; parameters, their names and roles stay.

    Raises:
        UsageError: as `require_float8`.
    """
    require_float8(device)
    logging.disable(logging.WARNING)  # it lists every kernel that was built for other machines
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    finally:
        logging.disable(logging.NOTSET)
    # Padding the inner width lets micro-batches be of any number of tokens.
    config = Float8LinearConfig(pad_inner_dim=True, emulate=device.type == "cpu")
    roles = {name: found.roles for name, found in module.named_modules() if isinstance(found, Linear)}
    convert_to_float8_training(module, config=config, module_filter_fn=lambda found, name: fits(found))
    for name, declared in roles.items():
        setattr(module.get_submodule(name), "roles", declared)  # noqa: B010 - a module's attributes are not typed


def fits(linear: nn.Linear) -> bool:
    """Return whether the kernels can multiply by the matrix."""
    return linear.in_features % DIVISOR == 0 and linear.out_features % DIVISOR == 0
