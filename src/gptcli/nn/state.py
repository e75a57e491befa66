"""The state of one forward pass: the positions of its tokens, their attention masks, and the cache that they extend.

Shapes: B batch, T time, S cached keys.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gptcli.nn.cache import KVCacheView, LayerCache, Places
from gptcli.nn.mask import attention_mask
from gptcli.nn.rope import Rotary
from gptcli.nn.token_shift import previous_ids


class BlockState(NamedTuple):
    """The inputs of one block's attention besides x. Its form is the same for all blocks, which are compiled as one."""

    rotary: Rotary | None = None
    """The angles of the T tokens; None where attention does not rotate."""
    mask: Tensor | None = None
    """(1 or B, 1, T, T) bool; None where plain causal attention is enough, or with a cache."""
    cache: LayerCache | None = None
    """The keys and values to extend and read, with their masks; if None, attention sees the T tokens alone."""


PLAIN = BlockState()
"""Plain causal attention to the T tokens, without rotation."""


class ForwardState:
    """The state that the layers share in one forward pass over `input_ids` (B, T).

    The tokens are those that a cache `view` was extended by, or whole sequences. `segment_ids` (B, T) keep attention
    within runs of the same number, such as one document.
    """

    def __init__(self, input_ids: Tensor, view: KVCacheView | None = None, segment_ids: Tensor | None = None) -> None:
        if view is not None and segment_ids is not None:
            raise ValueError("segment_ids are for whole sequences, not for cached decoding")
        self.input_ids, self.view, self.segment_ids = input_ids, view, segment_ids
        count = input_ids.shape[1]
        self.places: Places = slice(0, count) if view is None else view.places
        """Positions of the T tokens."""
        self.end = count if view is None else view.end
        """All positions are below it."""
        self.masks: dict[int, list[Tensor | None]] = {}

    def new_masks(self, window: int) -> list[Tensor | None]:
        """Return the mask (1 or B, 1, T, S) of this attention window (0: no window), or that of each part of a view."""
        count, device = self.input_ids.shape[1], self.input_ids.device
        if self.view is None:
            return [attention_mask(count, count, window=window, segment_ids=self.segment_ids, device=device)]
        return [
            attention_mask(
                part.rows.stop - part.rows.start if part.is_chunk else count,
                part.seen,
                window=window,
                positions=None if isinstance(part.places, slice) else part.places,
                device=device,
            )
            for part in self.view.parts
        ]

    def positions(self) -> Places:
        """Return the positions of the T tokens, which begin again in each segment, for learnt position vectors.

        RoPE needs no such restart: its attention depends on differences of positions only.
        """
        if self.segment_ids is None:
            return self.places
        place = torch.arange(self.input_ids.shape[1], device=self.input_ids.device)
        return place - first_places(self.segment_ids)  # (B, T)

    def previous_ids(self) -> Tensor:
        """Return the id before each token, (B, T), and write the tokens' own to the cache if there is one."""
        before = None if self.view is None else self.view.write_ids(self.input_ids)
        starts = None if isinstance(self.places, slice) else self.places == 0  # (B, T)
        return previous_ids(self.input_ids, before, starts, self.segment_ids)

    def block(self, layer: int, window: int, rotary: Rotary | None) -> BlockState:
        """Return the state of block number `layer`, whose attention has this window."""
        masks = self.masks.get(window)
        if masks is None:
            masks = self.masks[window] = self.new_masks(window)
        if self.view is None:
            return BlockState(rotary, masks[0])
        return BlockState(rotary, None, self.view.layer(layer, masks))


def first_places(segment_ids: Tensor) -> Tensor:
    """Return the place in its row at which each token's run of the same number begins: (B, T) -> (B, T)."""
    place = torch.arange(segment_ids.shape[1], device=segment_ids.device)
    goes_on = torch.zeros_like(segment_ids, dtype=torch.bool)
    goes_on[:, 1:] = segment_ids[:, 1:] == segment_ids[:, :-1]
    return place.masked_fill(goes_on, 0).cummax(dim=1).values
