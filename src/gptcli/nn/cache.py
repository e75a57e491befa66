"""The KV cache: keys and values of the tokens read so far, so that each new token costs one step of attention.

Knows nothing of text, prompts or sampling. Shapes: B batch, T new tokens, S filled slots, K n_kv_head, D head_dim.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Memory for `capacity` tokens a row, allocated once; attention only ever sees the `length` slots that are filled.

    All rows fill the same slots, so rows of different length are LEFT-padded: `start` (B,) holds the first real slot
    of each row. Set `start` before the first tokens are appended; the slots before it are never attended to, and the
    position of a token is its slot minus its row's `start`.
    """

    def __init__(
        self,
        n_layer: int,
        batch_size: int,
        capacity: int,
        n_kv_head: int,
        head_dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = (batch_size, n_kv_head, capacity, head_dim)
        self.keys = [torch.empty(shape, device=device, dtype=dtype) for _ in range(n_layer)]
        self.values = [torch.empty(shape, device=device, dtype=dtype) for _ in range(n_layer)]
        self.ids = torch.zeros(batch_size, capacity, dtype=torch.long, device=device)
        self.capacity = capacity
        self.length = 0
        self.start = torch.zeros(batch_size, dtype=torch.long, device=device)

    @property
    def start(self) -> Tensor:
        return self._start

    @start.setter
    def start(self, start: Tensor) -> None:
        self._start = start
        self._is_padded: bool | None = None

    @property
    def batch_size(self) -> int:
        return self.start.shape[0]

    def padding(self) -> Tensor | None:
        """`start` (B,) if any row is left-padded, else none. Looked at once a sequence: on a GPU a look is a wait."""
        if self.length == 0 or self._is_padded is None:
            self._is_padded = bool(self.start.any())
        return self.start if self._is_padded else None

    def write_ids(self, input_ids: Tensor) -> Tensor | None:
        """Write the ids (B, T) of the next T slots, for models that look at a token's left neighbour.

        Returns the ids (B, 1) in the slot before them, none at the beginning.
        """
        self.ids[:, self.length : self.length + input_ids.shape[1]] = input_ids
        return self.ids[:, self.length - 1 : self.length] if self.length else None

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k, v (B, K, T, D) into the next T slots of `layer`; all filled slots come back, (B, K, S, D) each.

        The slots count as filled for the next call only after `advance(T)`, once every layer has written.

        Raises:
            ValueError: the cache has no room for T more tokens.
        """
        end = self.length + k.shape[2]
        if end > self.capacity:
            raise ValueError(
                f"the KV cache holds {self.capacity} tokens and was given {end}; make it larger or reset it"
            )
        self.keys[layer][:, :, self.length : end] = k
        self.values[layer][:, :, self.length : end] = v
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def advance(self, count: int) -> None:
        """Count the `count` slots that every layer has just written as filled."""
        self.length += count

    def select(self, rows: Tensor) -> None:
        """Keep only `rows` (indices or a boolean mask over the batch), in that order."""
        self.keys = [keys[rows] for keys in self.keys]
        self.values = [values[rows] for values in self.values]
        self.ids = self.ids[rows]
        self.start = self.start[rows]

    def reset(self) -> None:
        """Forget everything, `start` included; the memory is kept."""
        self.length = 0
        self.start = torch.zeros_like(self.start)
