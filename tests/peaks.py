"""The most memory that a training takes at one moment, as torch's tracker finds it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributed._tools.mem_tracker import MemTracker

from gptcli.models.gpt import GPT


def tracked_peak(
    model: GPT, optimizer: torch.optim.Optimizer, ids: Tensor, micro_batches: int, backpropagate: Callable[[int], None]
) -> int:
    """Bytes of all tensors in two steps of so many micro-batches, each of which `backpropagate(number)` does."""
    tracker = MemTracker()
    tracker.track_external(model, optimizer, ids)
    with tracker:
        for _ in range(2):
            for number in range(micro_batches):
                backpropagate(number)
                tracker.reset_mod_stats()
            optimizer.step()
            optimizer.zero_grad()
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
