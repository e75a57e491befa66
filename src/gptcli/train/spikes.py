"""Telling a loss that jumps from one that wanders: a robust z-score over the losses of the last steps."""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW = 128
LEAST = 32
"""Before so many losses are known nothing counts as a spike."""
DEVIATION_OF_MAD = 1.4826
"""Standard deviations in a median absolute deviation, where losses are normally distributed."""


class SpikeGuard:
    """Knows the losses of the last `WINDOW` good steps, on the device where they are made, which never waits for it."""

    def __init__(self, limit: float, device: torch.device) -> None:
        """`limit`: the z-score above which a loss is a spike."""
        self.limit = limit
        self.losses = torch.full((WINDOW,), torch.nan, device=device)

    def is_spike(self, loss: Tensor) -> Tensor:
        """loss (), nats a token -> bool (): (loss - median) / (1.4826 MAD) is above the limit."""
        median = self.losses.nanmedian()
        mad = (self.losses - median).abs().nanmedian()
        is_known = ~self.losses[-LEAST:].isnan().any()
        return is_known & (loss - median > self.limit * DEVIATION_OF_MAD * mad)

    def add(self, loss: Tensor, is_bad: Tensor) -> None:
        """Remember the loss of a step, unless it `is_bad`."""
        self.losses = torch.where(is_bad, self.losses, torch.cat((self.losses[1:], loss.reshape(1))))

    def state(self) -> list[float]:
        return self.losses.tolist()

    def restore(self, state: list[float]) -> None:
        self.losses = torch.tensor(state, device=self.losses.device)
