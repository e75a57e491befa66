"""What several prompts begin with in common is read once. Knows ids, a model and its KV cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gptcli.models.gpt import GPT
from gptcli.nn.cache import KVCache

WORTH_SHARING = 16
"""Tokens that different prompts must begin with in common to have them read once; below, it saves no time."""


def read_shared_prefix(model: GPT, windows: Sequence[tuple[int, ...]], capacity: int) -> tuple[KVCache, int]:
    """A cache with a row for each window that holds as many tokens as they all begin with, where it pays, and that
    number; at least one token of each window is left to be read."""
    first, last = min(windows), max(windows)  # in the order of words: what these share, all share
    shared = min(accepted_length(last, first), min(map(len, windows)) - 1)
    if len(windows) == 1 or shared < WORTH_SHARING:
        return model.new_cache(len(windows), capacity), 0
    cache = model.new_cache(1, capacity)
    model.last_logits(torch.tensor([windows[0][:shared]], device=cache.ids.device), cache)
    cache.select([0] * len(windows))
    return cache, shared


def accepted_length(drawn: Sequence[int], draft: Sequence[int]) -> int:
    """How many of the first drafted ids are those drawn."""
    return next((place for place, token in enumerate(draft) if token != drawn[place]), len(draft))
