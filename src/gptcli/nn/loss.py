"""The loss: negative log-likelihood in nats, summed, so that whoever has all the counts can normalise.

Knows nothing of batches or steps. Shapes: B batch, T time, N = B*T, C n_embd, V vocab. Numbers below fp32 are raised to
fp32 first.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from gptcli.nn.products import linear, product

IGNORE_INDEX = -100
"""A target of this value is not scored."""
LARGE_VOCABULARY = 1024
"""From so many entries on, the passes over the logits that are saved outweigh a call into Python and back."""
MAX_LOGITS = 2**27
"""Most logits that are held at once, in numbers; a larger matrix is worked through in parts."""
ROWS = 128
"""Of a part a multiple, where it has as many: a GPU multiplies tiles of so many rows."""


def at_least_fp32(logits: Tensor) -> Tensor:
    """bf16 and fp16 become fp32; fp32 and fp64 come back as they are, not copied."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def softcapped(logits: Tensor, softcap: float | None) -> Tensor:
    """logits (..., V), bounded by c tanh(logits / c) if there is a softcap c (Gemma 2)."""
    return logits if softcap is None else softcap * torch.tanh(at_least_fp32(logits) / softcap)


def head_logits(x: Tensor, weight: Tensor, softcap: float | None = None) -> Tensor:
    """x (..., C), weight (V, C) -> logits (..., V)"""
    return softcapped(linear(x, weight), softcap)


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """logits (B, T, V), targets (B, T) -> scalar: the sum of -log softmax(logits)[target] over targets that count."""
    flat = at_least_fp32(logits).flatten(0, -2)  # (N, V)
    return F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """logits (B, T, V), targets (B, T) -> (B, T): nats of each target, 0 where it is ignored."""
    flat = at_least_fp32(logits).flatten(0, -2)  # (N, V)
    losses = F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORE_INDEX, reduction="none")  # (N,)
    return losses.view(targets.shape)


def head_loss_sum(x: Tensor, weight: Tensor, targets: Tensor, softcap: float | None = None) -> Tensor:
    """`cross_entropy_sum(head_logits(x, weight, softcap), targets)`, sparing memory and passes over it.

    x (B, T, C), weight (V, C), targets (B, T) -> scalar. With a large vocabulary the logits become their own gradient
    in place, and are never there all at once if they are more than MAX_LOGITS. F.linear_cross_entropy (torch 2.13) does
    likewise, but has no softcap and breaks the compiler's graph.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    few_logits = targets.numel() * len(weight) <= MAX_LOGITS
    # The compiler spares the passes itself, and does not cache graphs that hold a function such as the ones below.
    # fp16 needs the loss scale in the slopes before they are rounded: small probabilities would underflow.
    plain = torch.compiler.is_compiling() and few_logits
    if len(weight) < LARGE_VOCABULARY or plain or dtype == torch.float16:
        return cross_entropy_sum(head_logits(x, weight, softcap), targets)
    x, weight, targets = x.flatten(0, -2).to(dtype), weight.to(dtype), targets.flatten()  # (N, C), (V, C), (N,)
    if not torch.is_grad_enabled():
        parts = parts_of(x, targets, len(weight))
        return sum(cross_entropy_sum(head_logits(part, weight, softcap), wanted) for part, wanted in parts)
    return (HeadLoss if few_logits else HeadLossInParts).apply(x, weight, targets, softcap)


def head_token_losses(x: Tensor, weight: Tensor, targets: Tensor, softcap: float | None = None) -> Tensor:
    """`token_losses(head_logits(x, weight, softcap), targets)`, of which the logits are never there all at once if they
    are more than MAX_LOGITS. x (B, T, C), weight (V, C), targets (B, T) -> (B, T). For use without gradients."""
    parts = parts_of(x.flatten(0, -2), targets.flatten(), len(weight))
    losses = [token_losses(head_logits(part, weight, softcap), wanted) for part, wanted in parts]
    return torch.cat(losses).view(targets.shape)


class HeadLoss(torch.autograd.Function):
    """x (N, C), weight (V, C), targets (N,), softcap -> scalar; keeps the slopes (N, V) in place of the logits."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, targets: Tensor, softcap: float | None) -> Tensor:
        loss, slopes = loss_and_slopes(x, weight, targets, softcap)
        ctx.save_for_backward(x, weight, targets, slopes)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight, targets, slopes = ctx.saved_tensors
        scale = row_scale(targets, x.dtype) * gradient  # on the two small matrices, not on a large one
        return product(slopes, weight) * scale, product(slopes.mT, x * scale), None, None


class HeadLossInParts(torch.autograd.Function):
    """The same for logits that are too many to keep: the gradients are computed on the way forward, part by part."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, targets: Tensor, softcap: float | None) -> Tensor:
        dtype = at_least_fp32(x[:0]).dtype
        losses, x_slopes, weight_slopes = [], [], torch.zeros(weight.shape, dtype=dtype, device=x.device)
        for part, wanted in parts_of(x, targets, len(weight)):
            part_loss, slopes = loss_and_slopes(part, weight, wanted, softcap)
            scale = row_scale(wanted, x.dtype)
            losses.append(part_loss)
            x_slopes.append(product(slopes, weight) * scale)
            weight_slopes += product(slopes.mT, part * scale)
        ctx.save_for_backward(torch.cat(x_slopes), weight_slopes.to(weight.dtype))
        # Not summed up in place: the compiler of torch 2.11 gives no gradient for a result that was changed.
        return torch.stack(losses).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x_slopes, weight_slopes = ctx.saved_tensors
        return x_slopes * gradient, weight_slopes * gradient, None, None


def loss_and_slopes(x: Tensor, weight: Tensor, targets: Tensor, softcap: float | None) -> tuple[Tensor, Tensor]:
    """x (N, C), weight (V, C), targets (N,) -> the loss, and its derivative by x @ weight.T, (N, V) in x's dtype.

    Rows whose target is ignored hold numbers that mean nothing: multiply by `row_scale`.
    """
    logits = at_least_fp32(head_logits(x, weight, softcap))  # (N, V)
    slopes = F.log_softmax(logits, dim=-1)
    loss = F.nll_loss(slopes, targets, ignore_index=IGNORE_INDEX, reduction="sum")
    places = targets.clamp_min(0)[:, None]  # (N, 1)
    if torch.compiler.is_compiling():
        # Compared, not scattered: that the compiler does on the way, with no matrix in fp32.
        slopes = slopes.exp() - (torch.arange(len(weight), device=x.device) == places).to(slopes.dtype)
    else:
        slopes.exp_().scatter_add_(-1, places, slopes.new_full((), -1.0).expand_as(places))
    if softcap is not None:
        slopes = slopes.mul_(1 - (logits / softcap).square())
    return loss, slopes.to(x.dtype)


def row_scale(targets: Tensor, dtype: torch.dtype) -> Tensor:
    """targets (N,) -> (N, 1): 1 where the target counts, 0 where it is ignored."""
    return (targets != IGNORE_INDEX).to(dtype)[:, None]


def parts_of(x: Tensor, targets: Tensor, vocabulary: int) -> Iterator[tuple[Tensor, Tensor]]:
    """x (N, C), targets (N,) cut into nearly equal parts whose logits are at most MAX_LOGITS numbers."""
    size = max(1, MAX_LOGITS // vocabulary)
    size = -(-len(x) // -(-len(x) // size))
    if size > ROWS:
        size = min(-(-size // ROWS) * ROWS, MAX_LOGITS // vocabulary // ROWS * ROWS)
    return zip(x.split(size), targets.split(size), strict=True)
