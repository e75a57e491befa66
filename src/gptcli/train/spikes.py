"""Detection of loss spikes by a robust z-score over the losses of the last steps."""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW = 128
LEAST = 32
"""The number of known losses below which nothing counts as a spike."""
DEVIATION_OF_MAD = 1.4826
"""The standard deviation over the median absolute deviation of a normal distribution."""


class SpikeGuard:
    """Keeps the losses of the last `WINDOW` good steps on their device, which never has to wait."""

    def __init__(self, limit: float, device: torch.device) -> None:
        """
        Args:
            limit: the z-score above which a loss is a spike.
            device: the device of the losses.
        """
        self.limit = limit
        self.losses = torch.full((WINDOW,), torch.nan, device=device)

    def is_spike(self, loss: Tensor) -> Tensor:
        """Return whether (loss - median) / (1.4826 MAD) is above the limit: loss (), in nats per token -> bool ()."""
        median = self.losses.nanmedian()
        mad = (self.losses - median).abs().nanmedian()
        is_known = ~self.losses[-LEAST:].isnan().any()
        return is_known & (loss - median > self.limit * DEVIATION_OF_MAD * mad)

    def add(self, loss: Tensor, is_bad: Tensor) -> None:
        """Add the loss of a step, unless it `is_bad`."""
        self.losses = torch.where(is_bad, self.losses, torch.cat((self.losses[1:], loss.reshape(1))))

    def state(self) -> list[float]:
        """Return the losses, NaN where there are none yet."""
        return self.losses.tolist()

    def restore(self, state: list[float]) -> None:
        """Load what `state` returned."""
        self.losses = torch.tensor(state, device=self.losses.device)
