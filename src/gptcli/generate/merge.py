"""Moving rows between KV caches: into a larger one, or together with the rows of another.

Shapes: B rows, K n_kv_head, S slots, D head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from gptcli.models.gpt import GPT
from gptcli.nn.cache import KVCache


def merge_caches(model: GPT, caches: Sequence[KVCache], capacity: int) -> KVCache:
    """One cache with the rows of all `caches` in order, their last slots aligned, and no padding that all rows share.

    A key keeps its meaning when it moves, since a token's position is counted from its row's `start`.

    Raises:
        ValueError: `capacity` is less than the longest row.
    """
    leading = [int(cache.start.min()) for cache in caches]
    lengths = [cache.length - unused for cache, unused in zip(caches, leading, strict=True)]
    length = max(lengths)
    if length > capacity:
        raise ValueError(f"a cache for {capacity} tokens cannot hold a row of {length}")
    merged = model.new_cache(sum(cache.batch_size for cache in caches), capacity)
    merged.start = torch.cat([cache.start + (length - cache.length) for cache in caches])
    merged.ids[:, :length] = torch.cat(
        [
            F.pad(cache.ids[:, unused : cache.length], (length - kept, 0))
            for cache, unused, kept in zip(caches, leading, lengths, strict=True)
        ]
    )
    for layer in range(len(merged.keys)):
        first = 0
        for cache, unused, kept in zip(caches, leading, lengths, strict=True):
            rows = slice(first, first + cache.batch_size)
            for old, new in ((cache.keys, merged.keys), (cache.values, merged.values)):
                # Padding is masked, but what it holds must be finite: 0 times NaN would spoil the row.
                new[layer][rows, :, : length - kept] = 0
                new[layer][rows, :, length - kept : length] = old[layer][:, :, unused : cache.length]  # (B, K, S, D)
            first += cache.batch_size
    merged.advance(length)
    return merged
