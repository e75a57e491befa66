"""Which keys a query may see: the one place that decides it, for training, cached decoding, windows and padding.

Shapes: B batch, T queries (the last T slots), S keys (all filled slots).
"""

from __future__ import annotations

import torch
from torch import Tensor


def attention_mask(
    queries: int,
    keys: int,
    *,
    window: int = 0,
    start: Tensor | None = None,
    segment_ids: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor | None:
    """A boolean mask (1 or B, 1, T, S), true where the query may look; none where plain causal attention is enough.

    The T queries are the last of the S slots. A query sees itself and earlier slots, of them only

    - the last `window`, itself included, if window > 0;
    - those from its row's first real slot `start` (B,) on (rows are left-padded);
    - those of its own segment in `segment_ids` (B, S), which needs T = S.

    Every query sees at least itself, so that the output at a padded slot is meaningless but never NaN.
    """
    windowed = 0 < window < keys
    plain = queries == keys or queries == 1  # the two cases that attention does without a mask
    if plain and not windowed and start is None and segment_ids is None:
        return None
    key = torch.arange(keys, device=device)  # (S,)
    query = key[keys - queries :, None]  # (T, 1)
    allowed = key <= query  # (T, S)
    if windowed:
        allowed &= key > query - window
    allowed = allowed[None]  # (1, T, S)
    if start is not None:
        allowed = allowed & (key >= start[:, None, None])  # (B, T, S)
    if segment_ids is not None:
        allowed = allowed & (segment_ids[:, :, None] == segment_ids[:, None, :])  # (B, T, S)
    return (allowed | (key == query)).unsqueeze(1)  # (1 or B, 1, T, S)
