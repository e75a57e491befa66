"""Moving rows of KV caches into one larger cache.

Shapes: B rows, K n_kv_head, S slots, D head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence

from gptcli.models.gpt import GPT
from gptcli.nn.cache import KVCache


def merge_caches(model: GPT, caches: Sequence[KVCache], capacity: int) -> KVCache:
    """Return one cache with the rows of all `caches` in order, and room for `capacity` tokens each.

    Raises:
        ValueError: `capacity` is less than the longest row.
    """
    longest = max(cache.length for cache in caches)
    if longest > capacity:
        raise ValueError(f"a cache for {capacity} tokens cannot hold a row of {longest}")
    merged = model.new_cache(sum(cache.batch_size for cache in caches), capacity)
    merged.lengths = [length for cache in caches for length in cache.lengths]
    first = 0
    for cache in caches:
        rows = slice(first, first + cache.batch_size)
        merged.ids[rows, : cache.length] = cache.ids[:, : cache.length]
        for old, new in zip(cache.keys + cache.values, merged.keys + merged.values, strict=True):
            new[rows, :, : cache.length] = old[:, :, : cache.length]  # (B, K, S, D)
        first += cache.batch_size
    return merged
