"""Reading the windows of requests in chunks, and scoring the prompts of those that ask for it.

Shapes: B requests, T tokens read at a time, C n_embd, V vocab.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gptcli.generate import sampling
from gptcli.generate.requests import PromptScores, Request
from gptcli.generate.slots import Slots
from gptcli.models.gpt import GPT
from gptcli.nn.device import send
from gptcli.nn.state import ForwardState

LEAST_ALONE = 512
"""Least tokens read in one step while no request decodes, which then waits for nothing."""
SCORED_AT_ONCE = 128
"""Most tokens of a prompt whose logits are in memory at once."""


class Chunk(NamedTuple):
    """Tokens that are read together, padded to the longest."""

    requests: list[Request]
    counts: list[int]
    """Tokens of each request."""

    @property
    def size(self) -> int:
        """Tokens with their padding."""
        return len(self.counts) * max(self.counts)


class WindowReader:
    """Reads the windows of requests into their slots, first come first served."""

    def __init__(self, model: GPT, chunk: int) -> None:
        self.model, self.chunk = model, chunk
        self.count = 0
        """Tokens that have been read."""

    def read(self, slots: Slots) -> Iterator[tuple[Request, Tensor]]:
        """Read a chunk; yield the requests that have now been read to the end, which join those that decode, with the
        logits (1, 1, V) after that.
        """
        budget = self.chunk if slots.decoding else max(self.chunk, LEAST_ALONE)
        while budget > 0 and slots.reading:
            chunk = self.next_chunk(slots, budget)
            budget -= chunk.size
            yield from self.read_chunk(slots, chunk)

    def next_chunk(self, slots: Slots, budget: int) -> Chunk:
        """Return the next tokens of as many requests as fit into the budget and into their slots, padding included; of
        one at least.
        """
        chunk, longest, start = Chunk([], []), 0, 0
        for request in slots.reading_requests():
            unread = slots.unread(request)
            count = min(unread, budget)
            longest, start = max(longest, count), max(start, request.window_length - unread)
            is_too_long = longest * (1 + len(chunk.requests)) > budget or start + longest > slots.cache.capacity
            if chunk.requests and is_too_long:
                break
            chunk.requests.append(request)
            chunk.counts.append(count)
        return chunk

    def read_chunk(self, slots: Slots, chunk: Chunk) -> Iterator[tuple[Request, Tensor]]:
        """Read the tokens of a chunk in one pass; yield as `read` does."""
        numbers = [slots.number(request) for request in chunk.requests]
        starts = [slots.cache.lengths[number] for number in numbers]
        longest = max(chunk.counts)
        ids = []
        for request, start, count in zip(chunk.requests, starts, chunk.counts, strict=True):
            first = request.window_start + start
            ids.append([*request.ids[first : first + count], *[0] * (longest - count)])
        device = slots.cache.ids.device
        view = slots.cache.extend(longest, chunk.counts, slots=numbers)
        hidden = self.model.hidden_states(ForwardState(send(torch.tensor(ids), device), view))  # (B, T, C)
        self.count += sum(chunk.counts)
        for row, (request, start) in enumerate(zip(chunk.requests, starts, strict=True)):
            if request.prompt_logprobs is not None and not request.count:
                self.score(request, start, hidden[row, : chunk.counts[row]])
        rows = [row for row, request in enumerate(chunk.requests) if not slots.unread(request)]
        if rows:
            last = send(torch.tensor([chunk.counts[row] - 1 for row in rows]), device)
            logits = self.model.logits(hidden[send(torch.tensor(rows), device), last])  # (N, V)
            for number, row in enumerate(rows):
                slots.join(chunk.requests[row])
                yield chunk.requests[row], logits[number, None, None]

    def score(self, request: Request, start: int, hidden: Tensor) -> None:
        """Add the log-probabilities of the prompt's tokens that follow those at `start`, whose head's input is `hidden`
        (T, C).
        """
        if not start:
            request.prompt_scores = PromptScores([], [])
        following = request.ids[start + 1 : start + 1 + len(hidden)]
        for first in range(0, len(following), SCORED_AT_ONCE):
            part = slice(first, min(first + SCORED_AT_ONCE, len(following)))
            logits = self.model.logits(hidden[part])  # (T, V)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            tokens = send(torch.tensor(following[part]), logits.device)
            request.prompt_scores.logprobs.extend(sampling.log_probabilities(logits, tokens).tolist())
            if not request.prompt_logprobs:
                request.prompt_scores.top_logprobs.extend([] for _ in following[part])
                continue
            likely, numbers = (found.tolist() for found in sampling.most_likely(logits, request.prompt_logprobs))
            request.prompt_scores.top_logprobs.extend(
                list(zip(*pair, strict=True)) for pair in zip(likely, numbers, strict=True)
            )
