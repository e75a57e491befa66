"""The prefix that several prompts share, which is read once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gptcli.models.gpt import GPT
from gptcli.nn.cache import KVCache

WORTH_SHARING = 16
"""Shortest shared prefix, in tokens, that is read once; a shorter one saves no time."""


def read_shared_prefix(model: GPT, windows: Sequence[tuple[int, ...]], capacity: int) -> tuple[KVCache, int]:
    """Return a cache with a row for each window, which holds their shared prefix if that saves time, and its length.

    At least one token of each window is left to be read.
    """
    first, last = min(windows), max(windows)  # in lexicographic order: a prefix of both is one of all
    shared = min(accepted_length(last, first), min(map(len, windows)) - 1)
    if len(windows) == 1 or shared < WORTH_SHARING:
        return model.new_cache(len(windows), capacity), 0
    cache = model.new_cache(1, capacity)
    model.last_logits(torch.tensor([windows[0][:shared]], device=cache.ids.device), cache)
    cache.select([0] * len(windows))
    return cache, shared


def accepted_length(drawn: Sequence[int], draft: Sequence[int]) -> int:
    """Return the number of ids at the start of `draft` that equal those drawn."""
    return next((place for place, token in enumerate(draft) if token != drawn[place]), len(draft))
