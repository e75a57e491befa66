"""Linear and Embedding without initial weights: `models.gpt.initialize` draws them, or a checkpoint is loaded.

torch's own classes draw weights in their constructors, also on the meta device, where that makes torch import its
compiler (over a second).
Shapes: B batch, T time, C n_embd, V vocab.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gptcli.nn.matmul import linear
from gptcli.nn.parameters import BIAS, EMBEDDING, MATRIX, Role


class Linear(nn.Linear):
    """A linear map x W^T + b, whose weight has this role."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, role: Role = MATRIX) -> None:
        super().__init__(in_features, out_features, bias)
        self.roles = {"weight": role, "bias": BIAS._replace(parts=role.parts)}

    def reset_parameters(self) -> None:
        """Draw nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., I) to (..., O)."""
        return linear(x, self.weight, self.bias)

    def whole_weight(self) -> Tensor:
        """Return the matrix (O, I) that computes what this map does, beside its bias."""
        return self.weight


class Embedding(nn.Embedding):
    """A table of vectors, one for each id, which has this role."""

    def __init__(self, num_embeddings: int, embedding_dim: int, role: Role = EMBEDDING) -> None:
        super().__init__(num_embeddings, embedding_dim)
        self.roles = {"weight": role}

    def reset_parameters(self) -> None:
        """Draw nothing."""

    def whole_weight(self) -> Tensor:
        """Return the table (V, C) in which the ids are looked up."""
        return self.weight

    def look_up_and_share(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Map ids (B, T) to their vectors (B, T, C), and return the table (V, C) too, for a head that is tied to it.

        The gradient is that of `self(ids)` and the table, without a table of zeros that is filled and added up.
        """
        if torch.compiler.is_compiling():  # it does not cache graphs with functions such as the one below
            return self(ids), self.whole_weight()
        return LookUpAndShare.apply(ids, self.whole_weight())  # type: ignore[no-any-return, no-untyped-call]  # torch does not annotate apply


class LookUpAndShare(torch.autograd.Function):
    """The rows of a table, and the table: the gradient of the rows is added into that of the table."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """Map ids (B, T) and table (V, C) to their vectors (B, T, C) and the table."""
        ctx.save_for_backward(ids)
        return F.embedding(ids, table), table.view_as(table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, rows: Tensor, table: Tensor) -> tuple[None, Tensor]:
        """Return the gradient of the table."""
        (ids,) = ctx.saved_tensors
        # In place: the head's gradient was made for this sum alone, and is a tensor as large as the table.
        return None, table.index_add_(0, ids.flatten(), rows.flatten(0, -2).to(table.dtype))
