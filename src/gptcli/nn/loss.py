"""The loss: negative log-likelihood in nats, summed, so that the caller can normalise by any count of targets.

Logits below fp32 are raised to fp32 first. Shapes: B batch, T time, N = B*T, C n_embd, V vocab.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gptcli.nn.matmul import linear, matmul
from gptcli.nn.recompute import Recompute, recomputed
from gptcli.nn.thresholds import LARGE_VOCABULARY, MAX_LOGITS

IGNORE_INDEX = -100
"""The value of a target that is not scored."""
ROWS = 128
"""The rows of a chunk are a multiple of this where there are as many: the tile height of a GPU's matmul."""

LARGEST_SCORED_PART = 0.75
"""The part of the targets that count, up to which the head is computed for those alone."""


class TrainedHeadRows(NamedTuple):
    """The rows of these ids (n,) of a head whose other rows are frozen: rows (n, C) replace those of its matrix."""

    ids: Tensor
    rows: Tensor


def at_least_fp32(tensor: Tensor) -> Tensor:
    """Return bf16 and fp16 as fp32; return fp32 and fp64 as they are, not copied."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def softcapped(logits: Tensor, softcap: float | None) -> Tensor:
    """Bound logits (..., V) by c tanh(logits / c) if there is a softcap c (Gemma 2)."""
    return logits if softcap is None else softcap * torch.tanh(at_least_fp32(logits) / softcap)


def head_logits(x: Tensor, weight: Tensor, softcap: float | None = None) -> Tensor:
    """Map x (..., C) by weight (V, C) to logits (..., V)."""
    return softcapped(linear(x, weight), softcap)


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum -log softmax(logits)[target] over the targets that count: logits (B, T, V), targets (B, T) -> scalar."""
    flat = at_least_fp32(logits).flatten(0, -2)  # (N, V)
    return F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the nats of each target, 0 where it is ignored: logits (B, T, V), targets (B, T) -> (B, T)."""
    flat = at_least_fp32(logits).flatten(0, -2)  # (N, V)
    losses = F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORE_INDEX, reduction="none")  # (N,)
    return losses.view(targets.shape)


def head_loss_sum(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    softcap: float | None = None,
    trained: TrainedHeadRows | None = None,
) -> Tensor:
    """Compute `cross_entropy_sum(head_logits(x, weight, softcap), targets)` with less memory and fewer passes over it.

    x (B, T, C), weight (V, C), targets (B, T) -> scalar. `trained` rows replace those of a frozen weight, and have
    gradients without one of the whole matrix. With a large vocabulary the gradient of the logits replaces
    them in place, and a matrix of more than MAX_LOGITS is never held as a whole. F.linear_cross_entropy (torch 2.13)
    does the same, but has no softcap and breaks the compiler's graph.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    x, targets = scored_rows(x, targets)
    few_logits = targets.numel() * len(weight) <= MAX_LOGITS
    # The compiler saves the passes itself, and does not cache graphs that hold a function such as the ones below.
    # fp16 needs the loss scale in the logit gradients before they are rounded: small probabilities would underflow.
    plain = torch.compiler.is_compiling() and few_logits
    if len(weight) < LARGE_VOCABULARY or plain or dtype == torch.float16:
        return cross_entropy_sum(head_logits(x, with_rows(weight, trained), softcap), targets)
    needs_gradient = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or trained is not None)
    weight = weight if trained and needs_gradient else with_rows(weight, trained)
    x, weight, targets = x.flatten(0, -2).to(dtype), weight.to(dtype), targets.flatten()  # (N, C), (V, C), (N,)
    if trained and needs_gradient:
        return RowsHeadLoss.apply(x, trained.rows.to(dtype), weight, trained.ids, targets, softcap)  # type: ignore[no-any-return, no-untyped-call]  # torch does not annotate apply
    if not needs_gradient:
        chunks = in_chunks(x, targets, len(weight))
        losses = (cross_entropy_sum(head_logits(chunk, weight, softcap), wanted) for chunk, wanted in chunks)
        return reduce(torch.add, losses)
    # With a frozen head the gradient of x is all that is needed, and smaller than that of the logits.
    function = HeadLoss if few_logits and weight.requires_grad else ChunkedHeadLoss
    return function.apply(x, weight, targets, softcap)  # type: ignore[no-any-return, no-untyped-call]  # torch does not annotate apply


def head_token_losses(x: Tensor, weight: Tensor, targets: Tensor, softcap: float | None = None) -> Tensor:
    """Compute `token_losses(head_logits(x, weight, softcap), targets)`, holding at most MAX_LOGITS logits at once.

    x (B, T, C), weight (V, C), targets (B, T) -> (B, T). Where there are more logits, the backward pass computes them
    again, chunk by chunk.
    """
    all_x, all_targets = x.flatten(0, -2), targets.flatten()
    x, scored = scored_rows(all_x, all_targets)
    chunks = list(in_chunks(x, scored, len(weight)))
    mode: Recompute = "full" if len(chunks) > 1 and torch.is_grad_enabled() else "none"

    def losses_of(x: Tensor, targets: Tensor) -> Tensor:
        return token_losses(head_logits(x, weight, softcap), targets)

    losses = [recomputed(losses_of, mode, *chunk) for chunk in chunks]
    found = torch.cat(losses)
    if len(found) < len(all_targets):
        found = found.new_zeros(all_targets.shape).masked_scatter(all_targets != IGNORE_INDEX, found)
    return found.view(targets.shape)


def with_rows(weight: Tensor, trained: TrainedHeadRows | None) -> Tensor:
    """Return weight (V, C) with the trained rows in their places."""
    return weight if trained is None else weight.index_copy(0, *trained)


class HeadLoss(torch.autograd.Function):
    """x (N, C), weight (V, C), targets (N,), softcap -> scalar; keeps the logits' gradient (N, V), not the logits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, softcap: float | None) -> Tensor:
        """Compute the loss and the gradient of the logits."""
        loss, by_logits = loss_and_logit_gradients(head_logits(x, weight, softcap), targets, softcap, x.dtype)
        ctx.save_for_backward(x, weight, targets, by_logits)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Return the gradients of x and weight."""
        x, weight, targets, by_logits = ctx.saved_tensors
        scale = row_scale(targets, x.dtype) * gradient  # applied to the two small matrices, not to a large one
        return matmul(by_logits, weight) * scale, matmul(by_logits.mT, x * scale), None, None


class ChunkedHeadLoss(torch.autograd.Function):
    """The same for more logits than can be kept: the forward pass computes the gradients, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, softcap: float | None) -> Tensor:
        """Compute the loss and both gradients; that of a frozen weight is None."""
        dtype, losses, by_x = at_least_fp32(x[:0]).dtype, [], []
        by_weight = torch.zeros(weight.shape, dtype=dtype, device=x.device) if ctx.needs_input_grad[1] else None
        for chunk, wanted in in_chunks(x, targets, len(weight)):
            loss, by_logits = loss_and_logit_gradients(head_logits(chunk, weight, softcap), wanted, softcap, x.dtype)
            scale = row_scale(wanted, x.dtype)
            losses.append(loss)
            by_x.append(matmul(by_logits, weight) * scale)
            if by_weight is not None:
                by_weight += matmul(by_logits.mT, chunk * scale)
        ctx.save_for_backward(torch.cat(by_x), None if by_weight is None else by_weight.to(weight.dtype))
        # Not summed in place: the compiler of torch 2.11 gives no gradient for a result that was changed.
        return torch.stack(losses).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        """Return the gradients of x and weight."""
        by_x, by_weight = ctx.saved_tensors
        return by_x * gradient, None if by_weight is None else by_weight * gradient, None, None


class RowsHeadLoss(torch.autograd.Function):
    """The same for a frozen weight of which the rows of some ids (n,) are replaced by trained ones, rows (n, C)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, rows: Tensor, weight: Tensor, ids: Tensor, targets: Tensor, softcap: float | None
    ) -> Tensor:
        """Compute the loss and both gradients, chunk by chunk."""
        losses, by_x = [], []
        by_rows = torch.zeros(rows.shape, dtype=at_least_fp32(x[:0]).dtype, device=x.device)
        for chunk, wanted in in_chunks(x, targets, len(weight)):
            logits = linear(chunk, weight).index_copy_(1, ids, linear(chunk, rows))
            loss, by_logits = loss_and_logit_gradients(softcapped(logits, softcap), wanted, softcap, x.dtype)
            scale, of_rows = row_scale(wanted, x.dtype), by_logits[:, ids]  # (N, 1), (N, n)
            by_logits.index_fill_(1, ids, 0.0)
            losses.append(loss)
            by_x.append((matmul(by_logits, weight) + matmul(of_rows, rows)) * scale)
            by_rows += matmul(of_rows.mT, chunk * scale)
        ctx.save_for_backward(torch.cat(by_x), by_rows.to(rows.dtype))
        return torch.stack(losses).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        """Return the gradients of x and of the rows."""
        by_x, by_rows = ctx.saved_tensors
        return by_x * gradient, by_rows * gradient, None, None, None, None


def scored_rows(x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return x (..., C) and targets (...) without the ignored targets, flattened, if they are many and it is cheap.

    A GPU would have to wait until the host knows how many are left, and a compiled graph has one shape.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return x, targets
    is_scored = targets != IGNORE_INDEX
    count = int(is_scored.sum())
    if count == 0 or count > LARGEST_SCORED_PART * targets.numel():
        return x, targets
    return x[is_scored], targets[is_scored]


def loss_and_logit_gradients(
    logits: Tensor, targets: Tensor, softcap: float | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the loss of logits (N, V) with their softcap, and its gradient by those without, (N, V) in `dtype`.

    targets (N,). The gradient's rows of ignored targets have no meaning: multiply by `row_scale`.
    """
    logits = at_least_fp32(logits)
    gradient = F.log_softmax(logits, dim=-1)  # becomes softmax(logits) - onehot(target) below
    loss = F.nll_loss(gradient, targets, ignore_index=IGNORE_INDEX, reduction="sum")
    places = targets.clamp_min(0)[:, None]  # (N, 1)
    if torch.compiler.is_compiling():
        # A comparison, not a scatter: the compiler fuses it, without a matrix in fp32.
        gradient = gradient.exp() - (torch.arange(logits.shape[1], device=logits.device) == places).to(gradient.dtype)
    else:
        gradient.exp_().scatter_add_(-1, places, gradient.new_full((), -1.0).expand_as(places))
    if softcap is not None:
        gradient = gradient.mul_(1 - (logits / softcap).square())
    return loss, gradient.to(dtype)


def row_scale(targets: Tensor, dtype: torch.dtype) -> Tensor:
    """Map targets (N,) to (N, 1): 1 where the target counts, 0 where it is ignored."""
    return (targets != IGNORE_INDEX).to(dtype)[:, None]


def in_chunks(x: Tensor, targets: Tensor, vocabulary: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Split x (N, C) and targets (N,) into nearly equal chunks whose logits are at most MAX_LOGITS numbers."""
    size = max(1, MAX_LOGITS // vocabulary)
    size = -(-len(x) // -(-len(x) // size))
    if size > ROWS:
        size = min(-(-size // ROWS) * ROWS, MAX_LOGITS // vocabulary // ROWS * ROWS)
    return zip(x.split(size), targets.split(size), strict=True)
