"""Requests, each of which is one sample that is being generated, and batches of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from gptcli.generate.lookup import PromptLookup
from gptcli.nn.cache import KVCache

FinishReason = Literal["stop", "eot", "length"]


@dataclass(slots=True, eq=False)
class Request:
    """One sample: the prompt's ids and the ids drawn since, of which the model reads those from `window_start` on."""

    ids: list[int]
    seed: int
    prompt_length: int
    window_start: int = 0
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    lookup: PromptLookup | None = None
    """The source of its draft tokens, if it has any."""

    @property
    def count(self) -> int:
        """Tokens drawn so far."""
        return len(self.ids) - self.prompt_length

    @property
    def window_length(self) -> int:
        """Tokens of the window, the last one drawn included."""
        return len(self.ids) - self.window_start


@dataclass(slots=True)
class RequestBatch:
    """Requests that are decoded together. The cache holds each request's window but for the last id, which is read
    next.
    """

    requests: list[Request]
    cache: KVCache
    seen: Tensor | None
    """(B, V) bool, the ids that occur in each request; None without a repetition penalty."""

    def select(self, indices: list[int]) -> None:
        """Keep the requests at `indices`, in that order."""
        if indices == list(range(len(self.requests))):
            return
        self.requests = [self.requests[i] for i in indices]
        self.cache.select(indices)
        self.seen = None if self.seen is None else self.seen[torch.tensor(indices, device=self.seen.device)]
