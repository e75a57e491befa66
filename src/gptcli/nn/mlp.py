"""The position-wise feed-forward networks. Shapes: B batch, T time, C n_embd, F intermediate width."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from gptcli.nn.dropout import drop
from gptcli.nn.layers import Linear
from gptcli.nn.parameters import MATRIX, RESIDUAL

Activation = Callable[[Tensor], Tensor]


def gelu_tanh(x: Tensor) -> Tensor:
    """Return GPT-2's approximation of GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    return F.gelu(x, approximate="tanh")


def relu2(x: Tensor) -> Tensor:
    """Return max(x, 0)^2 (So et al. 2021, Primer, arXiv:2109.08668)."""
    return F.relu(x).square()


class MLP(nn.Module):
    """down(activation(up(x)))."""

    def __init__(self, n_embd: int, width: int, bias: bool, activation: Activation, dropout: float = 0.0) -> None:
        super().__init__()
        self.up = Linear(n_embd, width, bias)
        self.down = Linear(width, n_embd, bias, RESIDUAL)
        self.activation, self.dropout = activation, dropout

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, T, C) to (B, T, C)."""
        y: Tensor = self.down(self.activation(self.up(x)))
        return drop(y, self.dropout) if self.training else y


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)): SwiGLU with SiLU, GEGLU with GELU (Shazeer 2020, arXiv:2002.05202).

    `up` holds both matrices in one (2F, C): the gate's rows first.
    """

    def __init__(self, n_embd: int, width: int, bias: bool, activation: Activation, dropout: float = 0.0) -> None:
        super().__init__()
        self.up = Linear(n_embd, 2 * width, bias, MATRIX._replace(parts=(("gate", width), ("up", width))))
        self.down = Linear(width, n_embd, bias, RESIDUAL)
        self.activation, self.dropout = activation, dropout

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, T, C) to (B, T, C)."""
        gate, up = self.up(x).chunk(2, dim=-1)  # (B, T, F) each
        y: Tensor = self.down(self.activation(gate) * up)
        return drop(y, self.dropout) if self.training else y
