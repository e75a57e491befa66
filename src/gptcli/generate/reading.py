"""Reading the windows of requests in chunks, and scoring the prompts of those that ask for it.

Shapes: B requests, T tokens read at a time, C n_embd, V vocab.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gptcli.generate import sampling
from gptcli.generate.config import WHOLE_PROMPTS
from gptcli.generate.requests import PromptScores, Request
from gptcli.generate.slots import Slots
from gptcli.models.gpt import GPT
from gptcli.nn.device import send
from gptcli.nn.state import ForwardState

LEAST_ALONE = 512
"""Least tokens read in one step while no request decodes, which then waits for nothing."""
LEAST_BESIDE = 16
"""Tokens that one CPU core reads in well under the time of a step of GPT-2 for one request; a step for eight requests
leaves time for twice as many (measured)."""
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

    def decode_and_read(self, slots: Slots) -> tuple[Tensor, Iterator[tuple[Request, Tensor]]]:
        """Decode one step and read a chunk in one pass, so that the weights are read once for both.

        Returns the logits (B, 1, V) of the requests that decode, and what `read` yields.
        """
        decoding = slots.decoding_requests()
        is_whole = self.chunk >= WHOLE_PROMPTS
        budget = self.chunk if is_whole else min(self.chunk, LEAST_BESIDE + 2 * len(decoding))
        ids, rows = [request.ids[-1] for request in decoding], len(decoding)
        chunks: list[tuple[Request, int, int]] = []
        for request in slots.reading_requests():
            count = min(slots.unread(request), budget)
            if count:
                start = request.window_length - slots.unread(request)
                chunks.append((request, start, count))
                ids += request.window[start : start + count]
                budget -= count
        view = slots.cache.extend_with_chunks(rows, [(slots.number(request), count) for request, _, count in chunks])
        state = ForwardState(send(torch.tensor(ids), slots.cache.ids.device)[:, None], view)
        hidden = self.model.hidden_states(state)[:, 0]  # (B + T, C)
        self.count += len(ids) - rows
        ends, first = list(range(rows)), rows
        finished = []
        for request, start, count in chunks:
            if request.prompt_logprobs is not None and not request.count:
                self.score(request, start, hidden[first : first + count])
            first += count
            if not slots.unread(request):
                finished.append(request)
                ends.append(first - 1)
        logits = self.model.logits(hidden[send(torch.tensor(ends), hidden.device)])[:, None]
        return logits[:rows], joined(slots, finished, logits[rows:])

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
            logits = self.model.logits(hidden[send(torch.tensor(rows), device), last])[:, None]  # (N, 1, V)
            yield from joined(slots, [chunk.requests[row] for row in rows], logits)

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


def joined(slots: Slots, requests: Sequence[Request], logits: Tensor) -> Iterator[tuple[Request, Tensor]]:
    """Yield each request with its logits (1, 1, V) of (N, 1, V), when it has joined those that decode; others may join
    between two of them.
    """
    for number, request in enumerate(requests):
        slots.join(request)
        yield request, logits[number, None]
