"""One optimizer step: micro-batches, backpropagation, clipping, and the check that keeps bad numbers out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gptcli.console import say
from gptcli.data.batch import Batch
from gptcli.data.batches import Batches
from gptcli.nn.device import HostCopy, Precision, autocast
from gptcli.nn.float8 import to_float8
from gptcli.objective.objective import target_count
from gptcli.optim.clip import clip_divisor
from gptcli.parallel.strategy import Strategy
from gptcli.train.spikes import SpikeGuard


class DataShare(NamedTuple):
    """One of `total` equal parts of every step: the part that one data rank trains on."""

    number: int
    total: int


WHOLE = DataShare(0, 1)


class StepResult(NamedTuple):
    """The mean loss of a step (in nats per target token), its gradient norm before clipping, and its target tokens.

    is_skipped: whether the step changed nothing, because a number was not finite or the loss was a spike.
    figures: the means of the objective's figures.
    """

    loss: float
    grad_norm: float
    tokens: int
    is_skipped: bool = False
    figures: tuple[float, ...] = ()

    @property
    def is_finite(self) -> bool:
        """True if loss and gradient norm are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def step_seed(seed: int, step: int, data_rank: int = 0) -> int:
    """Return the 63-bit seed of everything random within step `step` on this share of the data.

    Dropout is then, like the batches, a pure function of (seed, step): a resumed run repeats it without a saved
    generator state, and nothing that happens between two steps can change it.
    """
    name = f"{seed}/{step}/{data_rank}" if data_rank else f"{seed}/{step}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def micro_batches(
    batches: Batches, step: int, sequences_per_step: int, batch_size: int, share: DataShare = WHOLE
) -> Iterator[Batch]:
    """Yield the micro-batches of a share of step `step` (counted from 0); the last one may be smaller.

    The sequences of a step do not depend on the shares, which get consecutive parts of them.
    """
    own = sequences_per_step // share.total
    first = step * sequences_per_step + share.number * own
    last = first + own
    for start in range(first, last, batch_size):
        yield batches.sequences(range(start, min(start + batch_size, last)))


def accumulate_gradients(
    strategy: Strategy, batches: list[Batch], device: torch.device, precision: Precision, scaler: torch.amp.GradScaler
) -> tuple[Tensor, int]:
    """Backpropagate the mean loss over **all** units of a step, such as tokens; `batches` are this rank's share of it.

    Each micro-batch contributes its summed loss divided by the step's units, so that how a step is cut into
    micro-batches changes neither loss nor gradient (averaging means of micro-batches would, with ragged targets).
    Gradients are summed over the ranks along with the last micro-batch.

    Returns:
        This rank's share of the mean loss and of the means of the objective's figures, (1 + K,), and the target tokens
        of the step.
    """
    objective = strategy.objective
    own = [target_count(batch) for batch in batches]
    tokens, units = strategy.counts([sum(own), sum(map(objective.count, batches, own))])
    units = max(units, 1)
    means = torch.zeros(1 + len(objective.figure_names), device=device)
    for number, batch in enumerate(batches, start=1):
        with strategy.accumulating(is_last=number == len(batches)):
            with autocast(device, precision):
                sums = objective.sums(strategy.loss_function, batch, device)
                loss = sums.loss / units
            torch.autograd.backward(scaler.scale(loss * strategy.loss_factor))
        means += torch.cat((loss.detach()[None], sums.figures / units))
    return means, tokens


def is_overflow(result: StepResult) -> bool:
    """Return whether only the gradient is not finite, as when fp16 is scaled up too far."""
    return math.isfinite(result.loss) and not math.isfinite(result.grad_norm)


class PendingStep:
    """A step that was launched on the device, which may not have finished it."""

    def __init__(self, means: Tensor, grad_norm: Tensor, is_bad: Tensor, tokens: int) -> None:
        self.tokens = tokens
        others = torch.stack((grad_norm.to(means.dtype), is_bad.to(means.dtype)))
        self.numbers = HostCopy(torch.cat((others, means)))

    def result(self) -> StepResult:
        """Return the result of the step; wait until the device has it."""
        grad_norm, is_bad, loss, *figures = self.numbers.result()[0].tolist()
        return StepResult(loss, grad_norm, self.tokens, bool(is_bad), tuple(figures))


class Stepper:
    """Applies optimizer steps to one model; a step with a bad number changes nothing.

    On a CPU that is a branch. A GPU would be idle while the host reads the number, so the GPU itself decides: torch's
    fused optimizers skip the update where their `found_inf` is 1.
    """

    def __init__(
        self,
        strategy: Strategy,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        precision: Precision,
        grad_clip: float,
        max_spike: float = 0.0,
    ) -> None:
        """
        Args:
            max_spike: the z-score above which a loss is a spike, see `spikes`; with 0, no loss is.
        """
        self.strategy, self.optimizer = strategy, optimizer
        self.device, self.precision = device, precision
        self.max_norm = grad_clip or math.inf
        self.parameters = strategy.parameters
        if precision == "fp8":
            to_float8(strategy.model.blocks, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.is_fused: bool = getattr(optimizer, "_step_supports_amp_scaling", False)
        self.spikes = SpikeGuard(max_spike, device) if max_spike else None
        self.batch_size: int | None = None
        """The sequences of the largest micro-batch that fits the device, after one did not; None before."""
        self.decides_on_device = self.is_fused and all(parameter.is_cuda for parameter in self.parameters)

    def state(self) -> dict[str, Any]:
        """Return the numbers of a checkpoint's state that belong to the stepper."""
        return {"scaler": self.scaler.state_dict(), "spikes": self.spikes.state() if self.spikes else None}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Load what `state` returned."""
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if state.get("spikes") and self.spikes:
            self.spikes.restore(state["spikes"])

    def run(self, batches: list[Batch], seed: int = 0) -> StepResult:
        """Run one step on the micro-batches `batches`, and wait for its numbers."""
        return self.launch(batches, seed).result()

    def launch(self, batches: list[Batch], seed: int = 0) -> PendingStep:
        """Run one step on the micro-batches `batches`, with randomness from `seed`, without waiting for a GPU.

        The parameters, the moments and the optimizer's counters change only if loss and gradient norm are finite and
        the loss is no spike.

        Raises:
            torch.OutOfMemoryError: not even one sequence fits the device.
        """
        means, tokens = self.backpropagate(batches, seed)
        self.scaler.unscale_(self.optimizer)
        means, norm = self.strategy.means_and_norm(means)
        loss = means[0]
        is_bad = ~(loss.isfinite() & norm.isfinite())
        if self.spikes is not None:
            is_bad |= self.spikes.is_spike(loss)
            self.spikes.add(loss, is_bad)
        step = PendingStep(means, norm, is_bad, tokens)
        if self.decides_on_device:
            self.update(clip_divisor(norm, self.max_norm), is_bad.float())
        elif not step.result().is_skipped:
            self.update(clip_divisor(norm, self.max_norm) if norm > self.max_norm else None)
        self.scaler.update()
        return step

    def backpropagate(self, batches: list[Batch], seed: int) -> tuple[Tensor, int]:
        """Compute the gradients of a step; return what `accumulate_gradients` does.

        Where the device runs out of memory, the same sequences are split into micro-batches half as large.
        """
        while True:
            torch.manual_seed(seed)
            self.optimizer.zero_grad(set_to_none=True)
            try:
                return accumulate_gradients(self.strategy, batches, self.device, self.precision, self.scaler)
            except torch.OutOfMemoryError:
                largest = max(len(batch.input_ids) for batch in batches)
                if largest == 1 or self.strategy.world.size > 1:  # the other ranks are in the middle of this step
                    raise
            self.batch_size = (largest + 1) // 2
            say(f"out of memory on {self.device}: the step is repeated in micro-batches of {self.batch_size} sequences")
            batches = [part for batch in batches for part in batch.split(self.batch_size)]
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def update(self, divisor: Tensor | None, is_bad: Tensor | None = None) -> None:
        """Update the parameters with the gradients divided by `divisor`, unless `is_bad` is 1."""
        if self.is_fused:
            fused: Any = self.optimizer  # torch declares the two attributes in no class
            fused.grad_scale, fused.found_inf = divisor, is_bad
        elif divisor is not None:
            torch._foreach_div_([p.grad for p in self.parameters if p.grad is not None], divisor)
        self.optimizer.step()

    def is_bad(self, result: StepResult) -> bool:
        """Return whether the step's numbers show divergence; a gradient overflow that fp16 scaling fixes does not."""
        return result.is_skipped and not (self.scaler.is_enabled() and is_overflow(result))
