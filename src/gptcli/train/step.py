"""One optimizer step: micro-batches, backpropagation, clipping, and the branch that lets no bad number in.

Knows nothing of disks, schedules of events or people.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gptcli.data.batches import Batch, Batches
from gptcli.models.gpt import GPT
from gptcli.nn.device import autocast
from gptcli.nn.loss import IGNORE_INDEX
from gptcli.optim.clip import clip_gradients

LossSum = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(input_ids (B, T), targets (B, T), segment_ids (B, T) or None) -> summed nats, a scalar."""


class StepResult(NamedTuple):
    """Of one optimizer step: mean loss in nats a target token, gradient norm before clipping, and target tokens."""

    loss: float
    grad_norm: float
    tokens: int

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def step_seed(seed: int, step: int) -> int:
    """The 63-bit seed of everything random within step `step`.

    Dropout is then, like the batches, a pure function of (seed, step): a resumed run repeats it with no generator
    state to save, and nothing that happens between two steps can disturb it.
    """
    digest = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def micro_batches(batches: Batches, step: int, sequences_per_step: int, batch_size: int) -> Iterator[Batch]:
    """The micro-batches of step `step` (counted from 0), the last one possibly smaller."""
    first, last = step * sequences_per_step, (step + 1) * sequences_per_step
    for start in range(first, last, batch_size):
        yield batches.sequences(range(start, min(start + batch_size, last)))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Copy a batch; from pinned memory and without waiting where the device is a CUDA one."""
    if device.type == "cpu":
        return batch
    if device.type == "cuda":
        return Batch(*(None if t is None else t.pin_memory().to(device, non_blocking=True) for t in batch))
    return Batch(*(None if t is None else t.to(device) for t in batch))


def accumulate_gradients(
    loss_sum: LossSum, batches: list[Batch], device: torch.device, precision: str, scaler: torch.amp.GradScaler
) -> tuple[Tensor, int]:
    """Backpropagate the mean loss over **all** target tokens of `batches`; returns (mean loss, target tokens).

    Each micro-batch contributes its summed loss over the step's token count, so that how a step is cut into
    micro-batches changes neither loss nor gradient (averaging means of micro-batches would, with ragged targets).
    """
    tokens = sum(int((batch.targets != IGNORE_INDEX).sum()) for batch in batches)
    total = torch.zeros((), device=device)
    for batch in batches:
        input_ids, targets, segment_ids = to_device(batch, device)
        with autocast(device, precision):
            loss = loss_sum(input_ids, targets, segment_ids) / max(tokens, 1)
        scaler.scale(loss).backward()
        total += loss.detach()
    return total, tokens


class Stepper:
    """Applies optimizer steps to one model. `run(batches)` is one step; a step with a bad number changes nothing."""

    def __init__(
        self,
        model: GPT,
        optimizer: torch.optim.Optimizer,
        loss_sum: LossSum,
        *,
        device: torch.device,
        precision: str,
        grad_clip: float,
    ) -> None:
        self.model, self.optimizer, self.loss_sum = model, optimizer, loss_sum
        self.device, self.precision = device, precision
        self.max_norm = grad_clip or math.inf
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def run(self, batches: list[Batch]) -> StepResult:
        """One step on the micro-batches `batches`.

        The parameters, the moments and the optimizer's counters change only if loss and gradient norm are finite: a
        branch, since multiplying by zero would let a NaN through.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss, tokens = accumulate_gradients(self.loss_sum, batches, self.device, self.precision, self.scaler)
        self.scaler.unscale_(self.optimizer)
        grad_norm = clip_gradients(self.parameters, self.max_norm)
        result = StepResult(loss.item(), grad_norm.item(), tokens)
        if result.is_finite:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        return result

    def is_bad(self, result: StepResult) -> bool:
        """Whether the step's numbers speak of divergence; a gradient overflow that fp16 scaling mends does not."""
        return not result.is_finite and not (self.scaler.is_enabled() and math.isfinite(result.loss))
