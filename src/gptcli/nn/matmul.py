"""Linear maps and matmuls with gradients, by the library that is faster at them on this processor.

torch computes fp32 matmuls on a CPU with MKL. Where that leaves AVX-512 unused, the larger ones go through oneDNN, as
bf16's do everywhere; it reads the second matrix in place, transposed or not.

Shapes: N rows of input, I and O input and output width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcli.nn.processor import mkl_is_slow

LinearFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]
MKL_IS_SLOW = mkl_is_slow()  # evaluated once: the compiler cannot trace the detection
LEAST_WORK = 2**22
"""Multiplications from which on oneDNN's matmul is worth a call into Python: a tenth of a millisecond of MKL's."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b: x (..., I), weight (O, I), bias (O,) -> (..., O)."""
    is_compiling = torch.compiler.is_compiling()
    if bias is not None and is_compiling and x.is_cuda and x.numel() == x.shape[-1]:
        # For a matrix times a vector the compiler makes a kernel that reads the matrix faster than the library's,
        # unless the bias is part of the matmul.
        return F.linear(x, weight) + bias
    if not suits_onednn(x, weight):
        return F.linear(x, weight, bias)
    # The compiler does not cache graphs with an autograd.Function; an operator's first call loads the compiler.
    function: LinearFunction = compiled_linear if is_compiling else OneDNNLinear.apply
    return function(x, weight, bias)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return a b: a (..., I), b (I, O) -> (..., O)."""
    return linear(a, b.mT)


def suits_onednn(x: Tensor, weight: Tensor) -> bool:
    """Return whether oneDNN is the faster library for these shapes, and plain fp32 on a CPU is asked for."""
    return (
        MKL_IS_SLOW
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and type(weight) in (Tensor, nn.Parameter)  # neither sharded nor quantized
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_exporting()
        and x.numel() * weight.shape[0] >= LEAST_WORK
    )


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `F.linear` in fp32 by oneDNN, without gradients."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def gradients(
    ctx: Any, gradient: Tensor, multiply: LinearFunction
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Map the output's gradient (..., O) to those of x (..., I), weight (O, I) and bias (O,) that are needed."""
    x, weight = ctx.saved_tensors
    x_needed, weight_needed, bias_needed = ctx.needs_input_grad
    rows = gradient.flatten(0, -2)  # (N, O)
    return (
        multiply(gradient, weight.mT, None) if x_needed else None,
        multiply(rows.mT, x.flatten(0, -2).mT, None) if weight_needed else None,
        rows.sum(0) if bias_needed else None,
    )


class OneDNNLinear(torch.autograd.Function):
    """`onednn_linear` with gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Map x (..., I) to (..., O)."""
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return onednn_linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of x, weight and bias that are needed."""
        return gradients(ctx, gradient, OneDNNLinear.apply)


compiled_linear = torch.library.custom_op("gptcli::onednn_linear", onednn_linear, mutates_args=(), device_types="cpu")


@compiled_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def save_for_gradients(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    """Keep the tensors that `gradients` needs."""
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight)


compiled_linear.register_autograd(partial(gradients, multiply=compiled_linear), setup_context=save_for_gradients)

OPERATORS = (torch.ops.mkldnn._linear_pointwise.default, torch.ops.gptcli.onednn_linear.default) if MKL_IS_SLOW else ()
"""The operators of such a linear map in torch's dispatcher, uncompiled and compiled."""
