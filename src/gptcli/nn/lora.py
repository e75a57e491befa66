"""LoRA: linear maps whose matrix is frozen, with few trained weights beside it; tables of which some rows are trained.

Shapes: N rows of input, I and O input and output width, r rank, P parts of a fused matrix, V vocab, C n_embd.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gptcli.nn.dropout import drop
from gptcli.nn.layers import Embedding, Linear
from gptcli.nn.loss import TrainedHeadRows, at_least_fp32, with_rows
from gptcli.nn.matmul import linear, matmul
from gptcli.nn.parameters import Role


class LoraForm(NamedTuple):
    """The form of an adapter: the rank and the factor s of B A, and the variants.

    dropout: the probability with which a number of A's input is dropped in training.
    has_lengths: whether the lengths of the rows are trained too (DoRA).
    is_matrix: whether A and B are hidden matrices to the optimizer, such as Muon orthogonalises.
    """

    rank: int
    scaling: float
    dropout: float = 0.0
    has_lengths: bool = False
    is_matrix: bool = False


class LoraLinear(Linear):
    """x (W + s B A)^T + b with frozen W and b (Hu et al. 2021, arXiv:2106.09685).

    Each part of a fused matrix has an A and a B of its own: `lora_a` (P r, I) holds the parts' A one below the other,
    `lora_b` (O, r) the parts' B, each at the rows of its part. With `lora_lengths` m (O,) row o of W + s B A is scaled
    to the length m_o; its length before is a constant to the gradient (Liu et al. 2024, arXiv:2402.09353, section 4.3).
    """

    def __init__(self, base: Linear, form: LoraForm) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.form = base.in_features, base.out_features, form
        self.weight, self.bias = base.weight, base.bias
        own = base.roles["weight"].parts
        self.parts = tuple(rows for _, rows in own) or (base.out_features,)
        role = Role("matrix" if form.is_matrix else "adapter", "zeros", own)
        self.roles = {
            **base.roles,
            "lora_a": role._replace(init="lora", parts=tuple((name, form.rank) for name, _ in own)),
            "lora_b": role,
            "lora_lengths": Role("vector", "ones", own),
        }
        new = base.weight.new_empty
        self.lora_a = nn.Parameter(new(len(self.parts) * form.rank, base.in_features))
        self.lora_b = nn.Parameter(new(base.out_features, form.rank))
        self.lora_lengths = nn.Parameter(new(base.out_features)) if form.has_lengths else None
        base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., I) to (..., O)."""
        lengths, device = self.lora_lengths, x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        x, weight, a, b = (tensor.to(dtype) for tensor in (x, self.weight, self.lora_a, self.lora_b))
        bias = None if self.bias is None else self.bias.to(dtype)
        dropped = drop(x, self.form.dropout) if self.training and self.form.dropout else None
        multiply, form = self.multiply(), (self.parts, self.form.scaling)
        if lengths is None:
            y: Tensor = multiply(x, dropped, weight, bias, a, b, *form)
            return y
        with torch.no_grad():
            before = row_lengths(self.weight + self.update())
        scale = lengths / before  # (O,)
        y = multiply(x, dropped, weight, None, a, b, *form) * scale.to(dtype)
        return y if bias is None else y + bias

    def multiply(self) -> Callable[..., Any]:
        """Return `lora_linear` in the form that suits how the pass is run."""
        # A compiler cannot cache a graph with an autograd.Function. Selective recomputation, which lists operators,
        # must not see results that change in place.
        is_listed = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack()
        return lora_linear if is_listed else LoraFunction.apply

    def update(self) -> Tensor:
        """Return s B A (O, I), in fp32 or fp64."""
        a, b = at_least_fp32(self.lora_a).chunk(len(self.parts)), at_least_fp32(self.lora_b).split(self.parts)
        return torch.cat([b_part @ a_part for b_part, a_part in zip(b, a, strict=True)]) * self.form.scaling

    @torch.no_grad()
    def whole_weight(self) -> Tensor:
        """Return the one matrix (O, I) that computes the same, summed in fp32, in W's dtype and without gradients."""
        whole = at_least_fp32(self.weight) + self.update()
        if self.lora_lengths is not None:
            whole *= (at_least_fp32(self.lora_lengths) / row_lengths(whole))[:, None]
        return whole.to(self.weight.dtype)


def row_lengths(weight: Tensor) -> Tensor:
    """Return the length of each row: weight (O, I) -> (O,)."""
    lengths: Tensor = torch.linalg.vector_norm(weight, dim=1)
    return lengths


def initial_a(shape: Sequence[int], seed: int, name: str) -> Tensor:
    """Return the initial A of this name, a pure function of (seed, name), with peft's distribution.

    That is kaiming_uniform_(a=sqrt(5)) for each part (r, I) of the shape (P r, I): uniform between +-1 / sqrt(I).
    """
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.empty(tuple(shape)).uniform_(-1, 1, generator=generator).mul_(shape[1] ** -0.5)


def lora_linear(
    x: Tensor,
    dropped: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    parts: Sequence[int],
    s: float,
) -> Tensor:
    """Return x W^T + bias + s dropped A^T B^T, part by part of the rows of W and B; `dropped` None is x.

    x and dropped (..., I), weight (O, I), bias (O,), a (P r, I), b (O, r) -> (..., O).
    """
    inner = linear(x if dropped is None else dropped, a).split(b.shape[1], dim=-1)  # (..., r) for each part
    added = [linear(one, part) for one, part in zip(inner, b.split(list(parts)), strict=True)]
    return linear(x, weight, bias) + s * torch.cat(added, dim=-1)


class LoraFunction(torch.autograd.Function):
    """`lora_linear` with the products of low rank added in place, and without gradients of weight and bias."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        parts: tuple[int, ...],
        s: float,
    ) -> Tensor:
        """Map x (..., I) to (..., O)."""
        rows, rank = (x if dropped is None else dropped).flatten(0, -2), b.shape[1]  # (N, I)
        inner = linear(rows, a)  # (N, P r)
        y = linear(x, weight, bias)
        of_parts = zip(y.view(-1, len(weight)).split(parts, 1), inner.split(rank, 1), b.split(parts), strict=True)
        for y_part, inner_part, b_part in of_parts:
            y_part.addmm_(inner_part, b_part.mT, alpha=s)
        ctx.save_for_backward(rows, inner, weight, a, b)
        ctx.parts, ctx.s, ctx.shape, ctx.is_dropped = parts, s, x.shape, dropped is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, dropped, a and b."""
        rows, inner, weight, a, b = ctx.saved_tensors
        gradient, rank = gradient.flatten(0, -2), b.shape[1]  # (N, O)
        by_inner, by_b = torch.empty_like(inner), torch.empty_like(b)
        of_parts = (gradient.split(ctx.parts, 1), b.split(ctx.parts), by_b.split(ctx.parts))
        for gradient_part, b_part, by_b_part, inner_part, by_inner_part in zip(
            *of_parts, inner.split(rank, 1), by_inner.split(rank, 1), strict=True
        ):
            torch.mm(gradient_part, b_part, out=by_inner_part)
            by_b_part.copy_((inner_part.mT @ gradient_part).mT)
        by_inner *= ctx.s
        by_x = matmul(gradient, weight) if ctx.needs_input_grad[0] else None  # (N, I)
        by_dropped = matmul(by_inner, a) if ctx.needs_input_grad[1] else None
        if by_x is not None:
            by_x = (by_x if ctx.is_dropped else by_x.addmm_(by_inner, a)).view(ctx.shape)
        by_dropped = None if by_dropped is None else by_dropped.view(ctx.shape)
        return by_x, by_dropped, None, None, by_inner.mT @ rows, by_b.mul_(ctx.s), None, None


class TrainedRows(nn.Module):
    """A frozen table or matrix (V, C) of which the rows of some ids, `new_ids` (n,), are trained: `new_rows` (n, C)."""

    weight: Tensor
    new_ids: Tensor
    new_rows: nn.Parameter

    def take_over(self, base: Embedding | Linear, ids: Tensor) -> None:
        """Take the weight of `base`, frozen, and its rows of these ids (n,) as a parameter of their own."""
        role = base.roles["weight"]
        self.weight = base.weight.requires_grad_(False)
        self.new_rows = nn.Parameter(base.weight.detach()[ids])
        self.roles = {"weight": role, "new_rows": role}
        self.register_buffer("new_ids", ids, persistent=False)

    @property
    def trained_rows(self) -> TrainedHeadRows:
        """The ids and the trained rows."""
        return TrainedHeadRows(self.new_ids, self.new_rows)

    def whole_weight(self) -> Tensor:
        """Return the table or matrix (V, C), of which the new rows have gradients."""
        return with_rows(self.weight, self.trained_rows)


def trained_rows_of(module: nn.Module) -> TrainedHeadRows | None:
    """Return the trained rows of a frozen table or matrix; None if all of its rows are alike."""
    return module.trained_rows if isinstance(module, TrainedRows) else None


class TrainedRowsEmbedding(TrainedRows, Embedding):
    """An embedding with trained rows."""

    def __init__(self, base: Embedding, ids: Tensor) -> None:
        nn.Module.__init__(self)
        self.num_embeddings, self.embedding_dim = base.num_embeddings, base.embedding_dim
        self.take_over(base, ids)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, T) to their vectors (B, T, C), without a copy of the table."""
        is_row = ids[..., None] == self.new_ids  # (B, T, n)
        is_new, places = is_row.any(-1, keepdim=True), is_row.int().argmax(-1)  # (B, T, 1), (B, T)
        return torch.where(is_new, F.embedding(places, self.new_rows), F.embedding(ids, self.weight))

    def look_up_and_share(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Map ids (B, T) to their vectors (B, T, C), and return the frozen table (V, C)."""
        return self(ids), self.weight


class TrainedRowsLinear(TrainedRows, Linear):
    """A head without bias with trained rows."""

    def __init__(self, base: Linear, ids: Tensor) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.register_parameter("bias", None)
        self.take_over(base, ids)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., C) to (..., V)."""
        return linear(x, self.whole_weight())
