"""Linear maps whose products are taken in 8-bit floats while training (Micikevicius et al. 2022, arXiv:2209.05433).

Weights, gradients and moments stay fp32, and so does everything that is saved: only the operands of the three products
of a linear map (output, gradient of the input, gradient of the weight) are rounded, each with one scale a tensor.
The arithmetic is torchao's.
"""

from __future__ import annotations

import importlib.util
import logging

import torch
from torch import nn

from gptcli.errors import UsageError, missing_extra
from gptcli.nn.layers import Linear

LEAST_CAPABILITY = (8, 9)
"""Of a CUDA device (Ada): older ones have no 8-bit products."""
DIVISOR = 16
"""Both widths of a matrix are multiples of it, as the kernels want; other matrices stay as they are."""


def require_float8(device: torch.device) -> None:
    """Raises UsageError: torchao is not installed, or `device` has no 8-bit products. A CPU emulates them, slowly."""
    if importlib.util.find_spec("torchao") is None:
        raise missing_extra("torchao", "fp8", "precision fp8")
    is_old = device.type == "cuda" and torch.cuda.get_device_capability(device) < LEAST_CAPABILITY
    if is_old or device.type not in ("cuda", "cpu"):
        raise UsageError(f"{device} has no 8-bit matrix products", "use bf16")


def to_float8(module: nn.Module, device: torch.device) -> None:
    """Replace every linear map below `module` that the kernels can take; parameters and their names stay.

    Raises:
        UsageError: as `require_float8`.
    """
    require_float8(device)
    logging.disable(logging.WARNING)  # it tells of every kernel that was built for other machines
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    finally:
        logging.disable(logging.NOTSET)
    # Padding the inner width lets micro-batches be of any number of tokens.
    config = Float8LinearConfig(pad_inner_dim=True, emulate=device.type == "cpu")
    roles = {name: linear.roles for name, linear in module.named_modules() if isinstance(linear, Linear)}
    convert_to_float8_training(module, config=config, module_filter_fn=lambda linear, name: fits(linear))
    for name, declared in roles.items():
        module.get_submodule(name).roles = declared


def fits(linear: nn.Module) -> bool:
    return linear.in_features % DIVISOR == 0 and linear.out_features % DIVISOR == 0
