"""How often each token occurs in the texts of requests, kept on the device.

Shapes: B rows, T places of drafts, V vocab.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gptcli.generate.requests import Request
from gptcli.nn.device import send


class TokenCounts:
    """The number of times that each token occurs in each request: in its whole text, or in what was drawn only."""

    def __init__(self, vocab_size: int, device: torch.device, *, with_prompt: bool) -> None:
        self.vocab_size, self.device, self.with_prompt = vocab_size, device, with_prompt
        self.requests: list[Request] = []
        self.counted: list[int] = []
        """The ids of each request that are counted so far."""
        self.table = torch.zeros(0, vocab_size, device=device)
        """(B, V) fp32"""

    def assign(self, requests: list[Request]) -> None:
        """Make `requests` the rows, in this order. Rows of requests that were there before move along."""
        if requests == self.requests:
            return
        old = {request: row for row, request in enumerate(self.requests)}
        kept = [old[request] if request in old else len(old) for request in requests]
        counted = [*self.counted, 0]
        if kept:
            empty = torch.zeros(1, self.vocab_size, device=self.device)
            self.table = torch.cat((self.table, empty)).index_select(0, send(torch.tensor(kept), self.device))
        else:
            self.table = self.table[:0]
        self.requests = list(requests)
        self.counted = [
            counted[row] or (0 if self.with_prompt else request.prompt_length)
            for row, request in zip(kept, requests, strict=True)
        ]

    def update(self) -> None:
        """Count the ids that the requests have grown by."""
        places = [
            row * self.vocab_size + token
            for row, request in enumerate(self.requests)
            for token in request.ids[self.counted[row] :]
        ]
        if places:
            index = send(torch.tensor(places), self.device)
            self.table.view(-1).scatter_add_(0, index, torch.ones(1, device=self.device).expand(len(places)))
            self.counted = [len(request.ids) for request in self.requests]

    def at_places(self, drafts: Sequence[Sequence[int]], places: int) -> Tensor:
        """Return the counts before each place, (B, T, V): those of the request and of its draft up to there."""
        if places == 1:
            return self.table[:, None]
        counts = self.table[:, None].repeat(1, places, 1)
        # What follows the end of a draft is never used, so any id may stand there.
        padded = [[*draft, *[0] * (places - 1 - len(draft))] for draft in drafts]
        index = send(torch.tensor(padded), self.device)[..., None]  # (B, T-1, 1)
        one = torch.ones(1, 1, 1, device=self.device)
        for place in range(1, places):
            later = index[:, place - 1 : place].expand(-1, places - place, -1)
            counts[:, place:].scatter_add_(2, later, one.expand_as(later))
        return counts
