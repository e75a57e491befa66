"""Sequences of ids -> nats of every token: windows batched by length, in bounded memory. Knows ids, never text.

Shapes: B windows in a batch, T time, N ids of one sequence.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

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
"""Copies of a batch's logits in fp32 that a loss may hold at once."""
BATCHES_AHEAD = 16
"""So many batches of windows are gathered and sorted by length, which bounds both the padding and the memory."""

Key = TypeVar("Key")


@contextmanager
def evaluation_mode(model: GPT) -> Iterator[None]:
    """No dropout and no gradients inside; the model's mode is put back after.

    no_grad rather than inference_mode: what the model keeps from inside, such as a longer table of positions, must
    serve training later.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


class ScoredSequence(Generic[Key]):
    """One sequence being scored: `ids` (N,), and `losses` (N - 1,) in nats of the tokens at 1 .. N - 1."""

    def __init__(self, key: Key, ids: np.ndarray) -> None:
        self.key, self.ids = key, ids
        self.losses = np.zeros(max(len(ids) - 1, 0))
        self.unscored = len(self.losses)


class PendingWindow(NamedTuple):
    """A window of a sequence, waiting for its batch."""

    sequence: ScoredSequence
    window: Window

    @property
    def width(self) -> int:
        """How many ids the model is fed."""
        return self.window.stop - 1 - self.window.start

    @property
    def first(self) -> int:
        """Which of the fed ids' outputs is the first to be scored."""
        return self.window.scored - 1 - self.window.start


class Scorer:
    """Scores sequences with one model, to be used in `evaluation_mode`.

    On a CUDA device that runs out of memory it goes on with smaller batches.
    """

    def __init__(
        self,
        model: GPT,
        *,
        context: int,
        stride: int,
        batch_size: int,
        on_tokens: Callable[[int, float], None] | None = None,
    ) -> None:
        """`on_tokens(count, nats)` is called after each batch with the tokens that it scored and their summed nats."""
        self.model, self.context, self.stride, self.batch_size = model, context, stride, batch_size
        self.device = next(model.parameters()).device
        self.on_tokens = on_tokens

    def score(self, sequences: Iterable[tuple[Key, np.ndarray]]) -> Iterator[ScoredSequence[Key]]:
        """(key, ids (N,)) pairs -> the sequences with their losses, in the order in which they came."""
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
        """Score all pieces, longest first, so that windows of a batch have nearly one length.

        Raises:
            CheckpointError: the model's logits are not finite.
        """
        waiting = sorted(waiting, key=lambda piece: (piece.width, piece.first), reverse=True)
        while waiting:
            batch, waiting = waiting[: self.batch_size], waiting[self.batch_size :]
            losses = self.losses(*to_tensors(batch))  # (B, T - first)
            first = min(piece.first for piece in batch)
            for piece, row in zip(batch, losses.cpu().double().numpy(), strict=True):
                sequence, window = piece
                sequence.losses[window.scored - 1 : window.stop - 1] = row[piece.first - first : piece.width - first]
                sequence.unscored -= window.stop - window.scored
            nats = float(losses.sum())
            if not math.isfinite(nats):
                raise overflow_error()
            if self.on_tokens is not None:
                self.on_tokens(sum(window.stop - window.scored for _, window in batch), nats)

    def losses(self, input_ids: Tensor, targets: Tensor) -> Tensor:
        """input_ids (B, T), targets (B, T - first) -> (B, T - first) nats, 0 where ignored.

        Raises:
            OutOfMemoryError: one window alone does not fit the device.
        """
        parts: list[Tensor] = []
        done = 0
        while done < len(input_ids):
            rows = slice(done, done + self.batch_size)
            part = self.attempt(input_ids[rows], targets[rows])
            if part is None:
                self.batch_size = (min(self.batch_size, len(input_ids) - done) + 1) // 2
                say(f"out of memory on {self.device}: going on with batches of {self.batch_size}")
                torch.cuda.empty_cache()
                continue
            parts.append(part)
            done += len(part)
        return torch.cat(parts)

    def attempt(self, input_ids: Tensor, targets: Tensor) -> Tensor | None:
        """As `losses`, all rows at once; None where the device has not enough memory for that."""
        try:
            logits = self.model(input_ids.to(self.device))  # (B, T, V)
            return token_losses(logits[:, -targets.shape[1] :], targets.to(self.device))
        except torch.OutOfMemoryError as error:
            if len(input_ids) > 1:
                return None
            raise OutOfMemoryError(
                f"a window of {input_ids.shape[1]} tokens does not fit {self.device}",
                "choose a smaller --context, or --device cpu",
            ) from error


def to_tensors(batch: list[PendingWindow]) -> tuple[Tensor, Tensor]:
    """Pieces -> input_ids (B, T) padded on the right, and targets (B, T - first) of the outputs from `first` on.

    `first` is the earliest output that any piece scores; what is before it is context to all of them. Padding is the
    id 0: attention is causal, so that no scored output sees what stands to its right.
    """
    width = max(piece.width for piece in batch)
    first = min(piece.first for piece in batch)
    input_ids = np.zeros((len(batch), width), dtype=np.int64)
    targets = np.full((len(batch), width - first), IGNORE_INDEX, dtype=np.int64)
    for row, piece in enumerate(batch):
        (start, stop, scored), ids = piece.window, piece.sequence.ids
        input_ids[row, : piece.width] = ids[start : stop - 1]
        targets[row, piece.first - first : piece.width - first] = ids[scored:stop]
    return torch.from_numpy(input_ids), torch.from_numpy(targets)


def usable_batch_size(wanted: int | None, context: int, vocab_size: int, device: torch.device) -> int:
    """Windows in a batch: as many as are wanted, by default `default_batch_size`.

    On a CPU, where nothing says that the memory is used up, the fp32 logits and what is computed of them stay within
    half of it.
    """
    if wanted is None:
        return default_batch_size(context, vocab_size, device)
    if device.type != "cpu":
        return wanted
    return max(1, min(wanted, machine_memory_bytes(device) // 2 // (LOGIT_COPIES * 4 * context * vocab_size)))


def default_batch_size(context: int, vocab_size: int, device: torch.device) -> int:
    """Windows in a batch: the fp32 logits stay within 256 MiB on a CPU and 2 GiB on an accelerator."""
    on_cpu = device.type == "cpu"
    logits_bytes, tokens = (2**28, 2**13) if on_cpu else (2**31, 2**16)
    return max(1, min(logits_bytes // (4 * context * vocab_size), tokens // context))
