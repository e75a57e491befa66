"""Linear and Embedding that draw no weights when made: `models.gpt.initialize` does, or a checkpoint is loaded.

torch's own draw at once, and do so on the meta device too, where that makes torch import its compiler (over a second).
Shapes: B batch, T time, C n_embd, V vocab.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from gptcli.nn.matmul import linear


class Linear(nn.Linear):
    def reset_parameters(self) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> (..., O)"""
        return linear(x, self.weight, self.bias)


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        pass

    def look_up_and_share(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """ids (B, T) -> their vectors (B, T, C), and the table (V, C) for a head that is tied to it.

        The gradient is that of `self(ids)` and `self.weight`, without a table of zeros that is filled and added up.
        """
        if torch.compiler.is_compiling():  # it does not cache graphs with functions such as the one below
            return self(ids), self.weight
        return LookUpAndShare.apply(ids, self.weight)


class LookUpAndShare(torch.autograd.Function):
    """The rows of a table, and the table: the gradient of the rows is added into that of the table."""

    @staticmethod
    def forward(ctx: FunctionCtx, ids: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(ids)
        return F.embedding(ids, table), table.view_as(table)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, rows: Tensor, table: Tensor) -> tuple[None, Tensor]:
        (ids,) = ctx.saved_tensors
        # In place: the head's gradient was made for this sum alone, and is a tensor as large as the table.
        return None, table.index_add_(0, ids.flatten(), rows.flatten(0, -2).to(table.dtype))
