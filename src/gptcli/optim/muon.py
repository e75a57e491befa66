"""Muon for hidden matrices and AdamW for the rest, as one optimizer with one state.

Muon (Jordan et al., https://kellerjordan.github.io/posts/muon/) steps along the nearest semi-orthogonal matrix to the
momentum. The numbers are those of torch.optim.Muon; added here are fused matrices (the q, k and v rows of one tensor
are three matrices), iterations batched over all matrices of a shape, and the AdamW groups.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from gptcli.nn.device import computes_in_bf16
from gptcli.nn.sharding import Sharding, from_owners, to_owners
from gptcli.nn.thresholds import MAX_MUON_BATCH

AdjustLr = Literal["match_rms_adamw", "original"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of x -> a x + b x^3 + c x^5, steep at zero: singular values end between 0.7 and 1.2, not at 1."""


def newton_schulz(matrices: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """Orthogonalise a batch: (N, rows, columns) -> the same shape in `dtype`, with singular values near 1."""
    a, b, c = COEFFICIENTS
    tall = matrices.size(1) > matrices.size(2)
    x = (matrices.mT if tall else matrices).to(dtype)
    # The Frobenius norm bounds the spectral norm, and the iteration converges from a spectral norm of at most 1.
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def newton_schulz_dtype(parameter: Tensor) -> torch.dtype:
    """Return bf16, which is precise enough, if it is fast; otherwise, and for fp64 parameters, fp32."""
    is_fast = parameter.dtype != torch.float64 and computes_in_bf16(parameter.device)
    return torch.bfloat16 if is_fast else torch.float32


def lr_scale(adjust_lr: AdjustLr, rows: int, columns: int) -> float:
    """Return the factor of the learning rate for a matrix of this shape.

    "original": sqrt(max(1, rows / columns)) (Jordan). "match_rms_adamw": 0.2 sqrt(max(rows, columns)), which gives
    updates the root mean square of AdamW's (Liu et al., https://arxiv.org/abs/2502.16982).
    """
    if adjust_lr == "original":
        return math.sqrt(max(1.0, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns))


class Muon(torch.optim.Optimizer):
    """Groups with `"algorithm": "muon"` hold matrices, those with `"algorithm": "adamw"` anything.

    Muon groups have lr, weight_decay, momentum, nesterov, ns_steps, adjust_lr and `splits`: for each parameter the row
    counts of the matrices fused in it, empty for a single one. AdamW groups have lr, weight_decay, betas, eps, fused.

    A parameter may be this rank's piece of a single matrix: those in `shardings` are. Everything is then done to the
    pieces but for the iterations, which need whole matrices: each rank is given the whole of some, orthogonalises
    those, and hands out the pieces of the result.

    Like torch's fused optimizers it divides gradients by `grad_scale` and changes nothing where `found_inf` is 1, as
    GradScaler asks: both are none, or scalars on the device. AdamW groups must be fused for that.

    Args:
        ns_dtype: precision of the Newton-Schulz iterations; None: what suits the device.
        shardings: how the parameters are cut up that are pieces.
    """

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        *,
        ns_dtype: torch.dtype | None = None,
        shardings: Mapping[Tensor, Sharding] | None = None,
    ) -> None:
        super().__init__(groups, {})
        self.ns_dtype, self.shardings = ns_dtype, dict(shardings or {})
        self._step_supports_amp_scaling = all(group.get("fused", True) for group in self.param_groups)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient, without waiting for the device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["algorithm"] == "muon":
                self.step_muon(group)
            else:
                self.step_adamw(group)
        return loss

    def step_muon(self, group: dict[str, Any]) -> None:
        """Update the matrices of one group."""
        found = [(p, splits) for p, splits in zip(group["params"], group["splits"], strict=True) if p.grad is not None]
        if not found:
            return
        params = [p for p, _ in found]
        grads = [p.grad for p in params]
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        momentum = group["momentum"]
        # buffer -= (1 - momentum) (buffer - grad): a running mean, and the kernel leaves clipped gradients behind.
        self.descend(buffers, grads, lr=1 - momentum, weight_decay=1.0, maximize=True, grad_scale=self.grad_scale)
        updates = torch._foreach_lerp(grads, buffers, momentum) if group["nesterov"] else buffers
        dtype = self.ns_dtype or newton_schulz_dtype(params[0])
        steps = group["ns_steps"]
        if self.shardings:
            for sharding, pieces in batches_of_one_sharding(params, updates, self.shardings):
                directions = orthogonal_pieces([update for _, update in pieces], sharding, steps, dtype)
                self.follow(group, [target for target, _ in pieces], directions, sharding.shape)
            return
        for pieces in batches_of_one_shape(params, updates, [splits for _, splits in found]):
            targets = [target for target, _ in pieces]
            stacked = torch.stack([update for _, update in pieces])  # (N, rows, columns)
            # The fused kernel reads memory in order, whatever the strides.
            orthogonal = newton_schulz(stacked, steps, dtype).to(targets[0].dtype).contiguous()
            self.follow(group, targets, orthogonal.unbind(), targets[0].shape)

    def follow(
        self, group: dict[str, Any], targets: Sequence[Tensor], directions: Sequence[Tensor], shape: torch.Size
    ) -> None:
        """Update matrices of this shape along their orthogonalised directions."""
        scale = lr_scale(group["adjust_lr"], *shape)
        self.descend(targets, directions, lr=group["lr"] * scale, weight_decay=group["weight_decay"] / scale)

    def descend(
        self,
        params: Sequence[Tensor],
        directions: Sequence[Tensor],
        *,
        lr: float,
        weight_decay: float,
        maximize: bool = False,
        grad_scale: Tensor | None = None,
    ) -> None:
        """Compute params -= lr (directions / grad_scale + weight_decay params), unless a bad number was found."""
        sgd(
            list(params),
            list(directions),
            [None] * len(params),
            fused=True,
            grad_scale=grad_scale,
            found_inf=self.found_inf,
            lr=lr,
            weight_decay=weight_decay,
            maximize=maximize,
            momentum=0.0,
            dampening=0.0,
            nesterov=False,
        )

    def step_adamw(self, group: dict[str, Any]) -> None:
        """Update the parameters of one group by AdamW."""
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        for p in params:
            if not self.state[p]:
                # Where torch.optim.AdamW keeps its counters: with a fused kernel on the device, otherwise on the host.
                device = p.device if group["fused"] else "cpu"
                self.state[p]["step"] = torch.zeros((), dtype=torch.float32, device=device)
                self.state[p]["exp_avg"] = torch.zeros_like(p)
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p)
        beta1, beta2 = group["betas"]
        adamw(
            params,
            [p.grad for p in params],
            [self.state[p]["exp_avg"] for p in params],
            [self.state[p]["exp_avg_sq"] for p in params],
            [],
            [self.state[p]["step"] for p in params],
            fused=group["fused"],
            grad_scale=self.grad_scale if group["fused"] else None,
            found_inf=self.found_inf if group["fused"] else None,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonal_pieces(pieces: Sequence[Tensor], sharding: Sharding, steps: int, dtype: torch.dtype) -> list[Tensor]:
    """This rank's pieces (rows, columns) of matrices of one sharding -> its pieces of the orthogonalised matrices."""
    owned = to_owners(pieces, sharding)
    if owned:
        made = newton_schulz(torch.stack(owned), steps, dtype).to(pieces[0].dtype)  # (N, rows, columns)
        owned = list(made.unbind())
    # The fused kernel reads memory in order, whatever the strides.
    return [piece.contiguous() for piece in from_owners(owned, sharding, pieces)]


def batches_of_one_sharding(
    params: Sequence[Tensor], updates: Sequence[Tensor], shardings: Mapping[Tensor, Sharding]
) -> Iterator[tuple[Sharding, list[tuple[Tensor, Tensor]]]]:
    """Lists of (parameter piece, update piece) of one sharding: as many as keep all ranks busy with a bounded batch."""
    by_sharding: defaultdict[Sharding, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for param, update in zip(params, updates, strict=True):
        by_sharding[shardings[param]].append((param, update))
    for sharding, pieces in by_sharding.items():
        ranks = math.prod(cut.ranks for cut in sharding.cuts)
        count = ranks * max(1, MAX_MUON_BATCH // sharding.shape.numel())
        for first in range(0, len(pieces), count):
            yield sharding, pieces[first : first + count]


def batches_of_one_shape(
    params: Sequence[Tensor], updates: Sequence[Tensor], splits: Sequence[Sequence[int]]
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Cut fused tensors into their matrices; lists of (parameter view, update view) of one shape, bounded in size."""
    by_shape: defaultdict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for param, update, rows in zip(params, updates, splits, strict=True):
        sizes = list(rows) or [len(param)]
        for target, matrix in zip(param.split(sizes), update.split(sizes), strict=True):
            by_shape[target.shape].append((target, matrix))
    for shape, pieces in by_shape.items():
        count = max(1, MAX_MUON_BATCH // shape.numel())
        for first in range(0, len(pieces), count):
            yield pieces[first : first + count]
