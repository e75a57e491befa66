"""Attention masks, for training, cached decoding, sliding windows and documents.

Shapes: B batch, T queries, S keys.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attention_mask(
    queries: int,
    keys: int,
    *,
    window: int = 0,
    positions: Tensor | None = None,
    segment_ids: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor | None:
    """Return a mask (1 or B, 1, T, S), true where a query may look, or None where plain causal attention is enough.

    The T queries are at `positions` (B, T) among the S slots, by default in the last T. A query sees itself and
    earlier slots, but of these only

    - the last `window`, itself included, if window > 0;
    - those of its own segment in `segment_ids` (B, S), which requires T = S.
    """
    windowed = 0 < window < keys
    plain = queries == keys or queries == 1  # the two cases that attention does without a mask
    if plain and not windowed and positions is None and segment_ids is None:
        return None
    key = torch.arange(keys, device=device)  # (S,)
    query = key[None, keys - queries :, None] if positions is None else positions.unsqueeze(-1)  # (1 or B, T, 1)
    allowed = key <= query  # (1 or B, T, S)
    if windowed:
        allowed = allowed & (key > query - window)
    if segment_ids is not None:
        allowed = allowed & (segment_ids[:, :, None] == segment_ids[:, None, :])  # (B, T, S)
    return allowed.unsqueeze(1)  # (1 or B, 1, T, S)
