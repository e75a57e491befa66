"""Linear maps for inference only, in forms that a CPU reads faster than a plain matrix.

Shapes: N rows of input, I and O input and output width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptcli.nn.matmul import linear
from gptcli.nn.processor import is_amd

LARGEST_INT8 = 127
LEAST_PACKED_NUMBERS = 2**18
"""The size of a matrix from which on packing pays: a call of oneDNN takes 13 microseconds more than MKL's, which is all
that a smaller matrix takes (measured at 1 to 32 rows)."""


def packs(weight: Tensor) -> bool:
    """Return whether oneDNN can keep this matrix in its own order."""
    on_cpu = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
    return on_cpu and weight.dtype == torch.float32


def least_packed_rows() -> int:
    """Return the number of input rows from which on a packed matrix is read faster than a plain one.

    MKL, which multiplies plain matrices, reads them at the memory's rate for a single row on an Intel processor, and at
    two fifths of that rate on AMD's (measured).
    """
    return 1 if is_amd() else 4


class PackedLinear(nn.Module):
    """x W^T + b in fp32, with W in the order in which oneDNN reads it, if W is so large that this is faster.

    For a few rows the library would otherwise reorder the whole matrix at every call, which takes as long as the matmul
    itself. `least_packed_rows` says from how many rows on packing pays. A packed matrix is read for fewer rows too:
    oneDNN then rounds a row alike whatever is beside it, which MKL does not.
    """

    matrix: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight, self.bias, self.is_packed = weight.detach(), bias, weight.numel() >= LEAST_PACKED_NUMBERS
        matrix = torch.ops.mkldnn._reorder_linear_weight(weight) if self.is_packed else weight
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., I) to (..., O)."""
        if not self.is_packed:
            return linear(x, self.matrix, self.bias)
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.matrix, self.bias, "none", [], "")
        return y


class Int8Linear(nn.Module):
    """x W^T + b with W in 8 bits, one scale an output, and on a CPU x in 8 bits too, one scale and offset a row.

    W = s_o * q with q in -127 .. 127. A row of x becomes low + step * n with n in 0 .. 255, so that

        y_o = step * s_o * sum_i n_i q_oi  +  low * s_o * sum_i q_oi  +  b_o,

    the first sum in exact integers: a row's result does not depend on the rows beside it (Dettmers et al. 2022,
    arXiv:2208.07339, section 2, with zero points). On other devices W is first converted to x's dtype.
    """

    weight: Tensor
    scale: Tensor
    offset: Tensor
    zeros: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST_INT8  # (O,)
        rounded = (weight / scale[:, None]).round().to(torch.int8)  # (O, I)
        self.packs = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
        # A processor without VNNI adds two products in 16 bits, which would overflow with more than 7 bits of input.
        self.levels = 255 if torch.cpu._is_vnni_supported() else 127
        self.bias = bias
        buffers = {
            "weight": torch.ops.onednn.qlinear_prepack(rounded, None) if self.packs else rounded,
            "scale": scale,
            "offset": rounded.sum(dim=1, dtype=torch.int32) * scale,  # (O,): the output for an input of ones
            "zeros": torch.zeros(len(scale), dtype=torch.int32),
        }
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., I) to (..., O) in x's dtype."""
        if not self.packs:
            plain = F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
            return plain if self.bias is None else plain + self.bias
        rows = x.reshape(-1, x.shape[-1]).float()  # (N, I)
        low, high = rows.aminmax(dim=1, keepdim=True)  # (N, 1) each
        step = (high - low).div_(self.levels).clamp_min_(torch.finfo(torch.float32).tiny)
        # Never below 0, so adding a half and truncating rounds to the nearest integer.
        numbers = torch.sub(rows, low).div_(step).add_(0.5).to(torch.uint8)
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            numbers, 1.0, 0, self.weight, self.scale, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )  # (N, O)
        base = low * self.offset if self.bias is None else torch.addcmul(self.bias.float(), low, self.offset)
        return base.addcmul_(y, step).to(x.dtype).view(*x.shape[:-1], -1)
