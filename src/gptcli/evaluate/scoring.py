"""The loss in nats of every token of sequences of ids, in windows batched by length, in bounded memory.

Shapes: B windows in a batch, T time, N ids of one sequence.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from gptcli.console import say
from gptcli.errors import OutOfMemoryError
from gptcli.evaluate.windows import Window, score_windows
from gptcli.models.gpt import GPT
from gptcli.nn.device import machine_memory_bytes
from gptcli.nn.finite import overflow_error
from gptcli.nn.loss import IGNORE_INDEX, token_losses

LOGIT_COPIES = 3
"""Copies of a batch's fp32 logits that computing the loss may hold at once."""
BATCHES_AHEAD = 16
"""The number of batches whose windows are gathered and sorted by length, which bounds padding and memory."""

Key = TypeVar("Key")


@contextmanager
def evaluation_mode(model: GPT) -> Iterator[None]:
    """Turn off dropout and gradients during the block, and restore the model's mode after it.

    It is no_grad rather than inference_mode, since training uses what the model keeps from the block, such as a longer
    table of positions.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


class ScoredSequence(Generic[Key]):
    """A sequence of ids (N,) that is being scored, with the `losses` (N - 1,) in nats of the tokens at 1 .. N - 1."""

    def __init__(self, key: Key, ids: np.ndarray) -> None:
        self.key, self.ids = key, ids
        self.losses = np.zeros(max(len(ids) - 1, 0))
        self.unscored = len(self.losses)


class PendingWindow(NamedTuple):
    """A window of a sequence that waits for its batch."""

    sequence: ScoredSequence[Any]
    window: Window

    @property
    def width(self) -> int:
        """The number of ids that the model is fed."""
        return self.window.stop - 1 - self.window.start

    @property
    def first(self) -> int:
        """The first of the fed ids whose output is scored."""
        return self.window.scored - 1 - self.window.start


class Scorer:
    """Scores sequences with one model, to be used in `evaluation_mode`.

    It halves the batches when a CUDA device runs out of memory.

    Attributes:
        on_tokens: called after each batch with the number of tokens scored and their summed nats.
    """

    def __init__(
        self,
        model: GPT,
        *,
        context: int,
        stride: int,
        batch_size: int,
        on_tokens: Callable[[int, float], None] = lambda count, nats: None,
    ) -> None:
        self.model, self.context, self.stride, self.batch_size = model, context, stride, batch_size
        self.device = next(model.parameters()).device
        self.on_tokens = on_tokens

    def score(self, sequences: Iterable[tuple[Key, np.ndarray]]) -> Iterator[ScoredSequence[Key]]:
        """Yield the sequences of (key, ids (N,)) pairs with their losses, in the same order."""
        started: deque[ScoredSequence[Key]] = deque()
        waiting: list[PendingWindow] = []
        for key, ids in sequences:
            sequence = ScoredSequence(key, ids)
            started.append(sequence)
            for window in score_windows(len(ids), self.context, self.stride):
                waiting.append(PendingWindow(sequence, window))
                if len(waiting) >= self.batch_size * BATCHES_AHEAD:
                    self.run(waiting)
                    waiting = []
            while started and not started[0].unscored:
                yield started.popleft()
        self.run(waiting)
        yield from started

    def run(self, waiting: list[PendingWindow]) -> None:
        """Score all windows, longest first, so that those of a batch have similar lengths.

        Raises:
            CheckpointError: the model's logits are not finite.
        """
        waiting = sorted(waiting, key=lambda pending: (pending.width, pending.first), reverse=True)
        while waiting:
            batch, waiting = waiting[: self.batch_size], waiting[self.batch_size :]
            losses = self.losses(*to_tensors(batch))  # (B, T - first)
            first = min(pending.first for pending in batch)
            for pending, row in zip(batch, losses.cpu().double().numpy(), strict=True):
                sequence, window = pending
                sequence.losses[window.scored - 1 : window.stop - 1] = row[
                    pending.first - first : pending.width - first
                ]
                sequence.unscored -= window.stop - window.scored
            nats = float(losses.sum())
            if not math.isfinite(nats):
                raise overflow_error()
            self.on_tokens(sum(window.stop - window.scored for _, window in batch), nats)

    def losses(self, input_ids: Tensor, targets: Tensor) -> Tensor:
        """Map input_ids (B, T) and targets (B, T - first) to nats (B, T - first), 0 for ignored targets.

        Raises:
            OutOfMemoryError: the device has no memory for one window.
        """
        parts: list[Tensor] = []
        done = 0
        while done < len(input_ids):
            rows = slice(done, done + self.batch_size)
            part = self.attempt(input_ids[rows], targets[rows])
            if part is None:
                self.batch_size = (min(self.batch_size, len(input_ids) - done) + 1) // 2
                say(f"out of memory on {self.device}: continuing with batches of {self.batch_size}")
                torch.cuda.empty_cache()
                continue
            parts.append(part)
            done += len(part)
        return torch.cat(parts)

    def attempt(self, input_ids: Tensor, targets: Tensor) -> Tensor | None:
        """Return `losses` of all rows at once; None if the device has too little memory."""
        try:
            logits = self.model(input_ids.to(self.device))  # (B, T, V)
            return token_losses(logits[:, -targets.shape[1] :], targets.to(self.device))
        except torch.OutOfMemoryError as error:
            if len(input_ids) > 1:
                return None
            raise OutOfMemoryError(
                f"{self.device} has no memory for a window of {input_ids.shape[1]} tokens",
                "choose a smaller --context, or --device cpu",
            ) from error


def to_tensors(batch: list[PendingWindow]) -> tuple[Tensor, Tensor]:
    """Return input_ids (B, T) padded on the right, and targets (B, T - first) of the outputs from `first` on.

    `first` is the earliest output that any window scores. The padding is the id 0: attention is causal, so that no
    scored output depends on what follows it.
    """
    width = max(pending.width for pending in batch)
    first = min(pending.first for pending in batch)
    input_ids = np.zeros((len(batch), width), dtype=np.int64)
    targets = np.full((len(batch), width - first), IGNORE_INDEX, dtype=np.int64)
    for row, pending in enumerate(batch):
        (start, stop, scored), ids = pending.window, pending.sequence.ids
        input_ids[row, : pending.width] = ids[start : stop - 1]
        targets[row, pending.first - first : pending.width - first] = ids[scored:stop]
    return torch.from_numpy(input_ids), torch.from_numpy(targets)


def usable_batch_size(wanted: int | None, context: int, vocab_size: int, device: torch.device) -> int:
    """Return the windows in a batch: `wanted`, by default `default_batch_size`.

    On a CPU, which raises no error when its memory is used up, the fp32 logits and what is computed from them stay
    within half of it.
    """
    if wanted is None:
        return default_batch_size(context, vocab_size, device)
    if device.type != "cpu":
        return wanted
    return max(1, min(wanted, machine_memory_bytes(device) // 2 // (LOGIT_COPIES * 4 * context * vocab_size)))


def default_batch_size(context: int, vocab_size: int, device: torch.device) -> int:
    """Return the windows in a batch whose fp32 logits stay within 256 MiB on a CPU and 2 GiB on an accelerator."""
    on_cpu = device.type == "cpu"
    logits_bytes, tokens = (2**28, 2**13) if on_cpu else (2**31, 2**16)
    return max(1, min(logits_bytes // (4 * context * vocab_size), tokens // context))
