"""Linear maps that are only ever applied, never trained, in forms that a CPU reads faster than a plain matrix.

Shapes: N rows of input, I and O input and output width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcli.nn.processor import is_amd

LARGEST_INT8 = 127


def activation_levels() -> int:
    """The largest number that an input is rounded to.

    Without VNNI a processor adds two products in 16 bits, which would overflow with more than 7 bits of input.
    """
    return 255 if torch.cpu._is_vnni_supported() else 127


def packs(weight: Tensor) -> bool:
    """Whether oneDNN can keep this matrix in its own order."""
    on_cpu = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
    return on_cpu and weight.dtype == torch.float32


def least_packed_rows() -> int:
    """From so many rows of input on, a packed matrix is read faster than a plain one.

    A plain one goes through MKL, which reads it at the memory's rate for a single row on an Intel processor, and at two
    fifths of it on one of AMD's (measured).
    """
    return 1 if is_amd() else 4


class PackedLinear(nn.Module):
    """x W^T + b in fp32, with W in the order in which oneDNN reads it.

    For a handful of rows the library would otherwise rearrange the whole matrix at every call, which takes as long as
    the product itself. For how few rows that pays, see `least_packed_rows`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("packed", torch.ops.mkldnn._reorder_linear_weight(weight.detach()), persistent=False)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> (..., O)"""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


class Int8Linear(nn.Module):
    """x W^T + b with W in 8 bits, one scale an output, and on a CPU x in 8 bits too, one scale and offset a row.

    W = s_o * q with q in -127 .. 127. A row of x becomes low + step * n with n in 0 .. 255, so that

        y_o = step * s_o * sum_i n_i q_oi  +  low * s_o * sum_i q_oi  +  b_o,

    the first sum in exact integers: a row's result does not depend on the rows beside it. (Dettmers et al. 2022,
    arXiv:2208.07339, section 2, with zero points.) Elsewhere than on a CPU W is turned back into x's numbers first.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST_INT8  # (O,)
        rounded = (weight / scale[:, None]).round().to(torch.int8)  # (O, I)
        self.packs = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
        self.levels = activation_levels()
        self.bias = bias
        buffers = {
            "weight": torch.ops.onednn.qlinear_prepack(rounded, None) if self.packs else rounded,
            "scale": scale,
            "offset": rounded.sum(dim=1, dtype=torch.int32) * scale,  # (O,): what an input of ones gives
            "zeros": torch.zeros(len(scale), dtype=torch.int32),
        }
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> (..., O) in x's dtype."""
        if not self.packs:
            y = F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
            return y if self.bias is None else y + self.bias
        rows = x.reshape(-1, x.shape[-1]).float()  # (N, I)
        low, high = rows.aminmax(dim=1, keepdim=True)  # (N, 1) each
        step = (high - low).div_(self.levels).clamp_min_(torch.finfo(torch.float32).tiny)
        # Never below 0, so that adding a half and cutting off is rounding.
        numbers = torch.sub(rows, low).div_(step).add_(0.5).to(torch.uint8)
        y = torch.ops.onednn.qlinear_pointwise(
            numbers, 1.0, 0, self.weight, self.scale, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )  # (N, O)
        base = low * self.offset if self.bias is None else torch.addcmul(self.bias.float(), low, self.offset)
        return base.addcmul_(y, step).to(x.dtype).view(*x.shape[:-1], -1)
