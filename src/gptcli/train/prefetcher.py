"""The micro-batches of each step; for a GPU, those of the next step are made while this one runs.

They are a pure function of the step, so that making them early changes nothing, even if they are never used.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch

from gptcli.data.batch import Batch
from gptcli.data.batches import Batches
from gptcli.train.fingerprints import hash_tokens
from gptcli.train.step import WHOLE, DataShare, micro_batches


class Prefetcher:
    """Gives the micro-batches of a step. On a CPU they are made on demand, since a thread would take a core."""

    def __init__(
        self, batches: Batches, sequences_per_step: int, batch_size: int, device: torch.device, share: DataShare = WHOLE
    ) -> None:
        self.batches, self.sequences_per_step, self.batch_size = batches, sequences_per_step, batch_size
        self.share = share
        self.pins = device.type == "cuda"
        self.worker = ThreadPoolExecutor(1, "prefetch") if self.pins else None
        self.ahead: tuple[int, Future[list[Batch]]] | None = None

    def limit(self, batch_size: int | None) -> None:
        """Make micro-batches of `batch_size` sequences from now on; None: the size stays."""
        self.batch_size = batch_size or self.batch_size

    def take(self, step: int) -> list[Batch]:
        """Return the micro-batches of `step` (counted from 0), and begin to make those of the step after it."""
        if self.worker is None:
            return self.make(step)
        ready = self.ahead[1].result() if self.ahead and self.ahead[0] == step else self.make(step)
        self.ahead = (step + 1, self.worker.submit(self.make, step + 1))
        return ready

    def whole(self, step: int) -> list[Batch]:
        """Return the micro-batches of all shares of `step`."""
        return list(micro_batches(self.batches, step, self.sequences_per_step, self.batch_size))

    def hash_of(self, step: int) -> int:
        """Return 48 bits of this share of `step`; those of all shares add up to those of the step (modulo 2^48)."""
        return hash_tokens(self.make(step), self.share.number * (self.sequences_per_step // self.share.total))

    def make(self, step: int) -> list[Batch]:
        """Return the micro-batches of this share of `step`."""
        made = micro_batches(self.batches, step, self.sequences_per_step, self.batch_size, self.share)
        return [batch.pin_memory() for batch in made] if self.pins else list(made)
