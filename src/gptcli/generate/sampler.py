"""Drawing ids for rows with different settings in one pass.

Shapes: B rows, T places of a row (its last id and its draft), V vocab, R rows that use a setting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gptcli.errors import GptcliError
from gptcli.generate import sampling
from gptcli.generate.constraint import ALL_ALLOWED, WORD_BITS, mask_words
from gptcli.generate.counts import TokenCounts
from gptcli.generate.requests import Alternatives, Request
from gptcli.nn.device import HostCopy, send

Drafts = Sequence[Sequence[int]]
"""The draft tokens of each row."""


class DrawnToken(NamedTuple):
    """An id that was drawn."""

    token: int
    logprob: float
    """Its log-probability in nats under the model's own distribution."""
    top: Alternatives
    """The most likely ids, as many as the request asks for."""


class Drawn:
    """Ids that were drawn, on the device and, as soon as they have been copied, on the host."""

    def __init__(self, ids: Tensor, logprobs: Tensor, top: tuple[list[int], Tensor, Tensor] | None) -> None:
        self.ids = ids
        """(B, T)"""
        self.top_counts = top[0] if top else [0] * len(ids)
        self.on_host = HostCopy(ids, logprobs, *(top[1:] if top else ()))

    def result(self) -> list[list[DrawnToken]]:
        """Wait for the copies; return the choices of each row, one for each place."""
        ids, logprobs, *top = (numbers.tolist() for numbers in self.on_host.result())
        rows = []
        for row, count in enumerate(self.top_counts):
            alternatives: list[Alternatives] = [[] for _ in ids[row]]
            if count:
                pairs = zip(top[0][row], top[1][row], strict=True)
                alternatives = [list(zip(tokens[:count], numbers[:count], strict=True)) for tokens, numbers in pairs]
            rows.append([DrawnToken(*choice) for choice in zip(ids[row], logprobs[row], alternatives, strict=True)])
        return rows


class RowSetting:
    """A setting of the rows that use it."""

    def __init__(self, values: Sequence[float | None], device: torch.device) -> None:
        used = [(row, value) for row, value in enumerate(values) if value is not None]
        numbers = [value for _, value in used]
        self.is_used = bool(used)
        self.largest = max(numbers, default=0)
        self.rows = None if len(used) == len(values) else send(torch.tensor([row for row, _ in used]), device)
        """The rows that use it (R,); None for all."""
        is_one = len(set(numbers)) == 1
        self.each = None if is_one or not used else send(torch.tensor(numbers), device)[:, None, None]
        """The number of each of these rows (R, 1, 1); None where they have the same."""
        self.device = device

    def value(self, dtype: torch.dtype) -> float | Tensor:
        """Return the number of all rows, or that of each, (R, 1, 1)."""
        return self.largest if self.each is None else self.each.to(dtype)

    def apply(self, logits: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Return logits (B, T, V) with the rows that use the setting replaced by what `change` makes of them."""
        if not self.is_used:
            return logits
        if self.rows is None:
            return change(logits)
        return logits.index_copy(0, self.rows, change(logits.index_select(0, self.rows)))


class Sampler:
    """Draws ids for the rows of a batch, each by the settings of its own request.

    A row's ids depend on its own logits, ids and seed only. `assign` says which requests the rows belong to; what it
    prepares stays as long as they do.
    """

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self.vocab_size, self.device = vocab_size, device
        self.requests: list[Request] = []
        self.seen = TokenCounts(vocab_size, device, with_prompt=True)
        self.drawn = TokenCounts(vocab_size, device, with_prompt=False)
        self.prepare_rows()

    def assign(self, requests: list[Request]) -> None:
        """Make `requests` the rows, in this order; to be called whenever rows have joined, left or moved."""
        if requests == self.requests:
            return
        self.requests = list(requests)
        self.prepare_rows()

    def prepare_rows(self) -> None:
        """Collect the settings of the rows."""
        params = [request.params for request in self.requests]

        def setting(values: Sequence[float | None]) -> RowSetting:
            return RowSetting(values, self.device)

        self.repetition = setting([one.repetition_penalty if one.repetition_penalty != 1 else None for one in params])
        is_penalised = [bool(one.presence_penalty or one.frequency_penalty) for one in params]
        self.presence = setting([one.presence_penalty if is_penalised[i] else None for i, one in enumerate(params)])
        self.frequency = setting([one.frequency_penalty if is_penalised[i] else None for i, one in enumerate(params)])
        self.seen.assign([request for request in self.requests if request.params.repetition_penalty != 1])
        self.drawn.assign([request for i, request in enumerate(self.requests) if is_penalised[i]])
        self.bias = logit_bias([one.logit_bias for one in params], self.device)
        self.constrained = [i for i, request in enumerate(self.requests) if not request.constraint.is_free]
        self.top_counts = [one.logprobs or 0 for one in params]
        # The filters concern only the rows whose ids are drawn at random, which come first out of all others.
        self.random = [i for i, one in enumerate(params) if not one.is_greedy]
        self.random_rows = setting([0 if not one.is_greedy else None for one in params])
        random = [params[i] for i in self.random]
        self.temperature = setting([one.temperature if one.temperature != 1 else None for one in random])
        self.top_k = setting([one.top_k or None for one in random])
        self.top_p_tail = setting([None if one.top_p is None or one.top_p == 1 else 1 - one.top_p for one in random])
        self.min_p = setting([one.min_p or None for one in random])

    def draw(self, logits: Tensor, drafts: Drafts) -> Drawn:
        """Draw an id for each place of the logits (B, T, V), with its log-probability under the model's distribution.

        The draw at a place depends on the request's seed and that place only, so drafts change no id.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        scores = self.allowed(self.penalised(logits, drafts))
        if not self.random:
            ids = sampling.greedy(scores)
        elif len(self.random) == len(self.requests):
            ids = self.draw_at_random(scores)
        else:
            rows = self.random_rows.rows
            assert rows is not None
            drawn = self.draw_at_random(scores.index_select(0, rows))
            ids = sampling.greedy(scores).index_copy(0, rows, drawn)
        return Drawn(ids, sampling.log_probabilities(logits, ids), self.top(logits))

    def penalised(self, logits: Tensor, drafts: Drafts) -> Tensor:
        """Return logits (B, T, V) with the biases and penalties of the rows."""
        places, dtype = logits.shape[1], logits.dtype
        if self.bias is not None:
            rows, ids, numbers = self.bias
            logits = logits.index_put(
                (rows[:, None], torch.arange(places, device=self.device), ids[:, None]),
                numbers[:, None].to(dtype).expand(-1, places),
                accumulate=True,
            )
        if self.presence.is_used:
            self.drawn.update()
            counts = self.drawn.at_places(self.drafts_of(self.drawn, drafts), places).to(dtype)
            presence, frequency = self.presence.value(dtype), self.frequency.value(dtype)
            logits = self.presence.apply(
                logits, lambda scores: sampling.occurrence_penalties(scores, counts, presence, frequency)
            )
        if self.repetition.is_used:
            self.seen.update()
            seen = self.seen.at_places(self.drafts_of(self.seen, drafts), places) > 0
            penalty = self.repetition.value(dtype)
            logits = self.repetition.apply(logits, lambda scores: sampling.repetition_penalty(scores, seen, penalty))
        return logits

    def drafts_of(self, counts: TokenCounts, drafts: Drafts) -> Drafts:
        """Return the drafts of the rows that are counted."""
        by_request = dict(zip(self.requests, drafts, strict=True))
        return [by_request[request] for request in counts.requests]

    def allowed(self, logits: Tensor) -> Tensor:
        """Return logits (B, T, V) with -inf for the tokens that a row's grammar does not allow.

        A request whose grammar cannot go on ends with that error; its row gets any id, which is not used.
        """
        if not self.constrained:
            return logits
        words = np.full((len(self.requests), mask_words(self.vocab_size)), ALL_ALLOWED, dtype=np.int32)
        for i in self.constrained:
            try:
                self.requests[i].constraint.mask_into(words[i])
            except GptcliError as error:
                self.requests[i].fail(error)
                words[i] = ALL_ALLOWED
        return logits.masked_fill(~self.unpacked(words)[:, None], -torch.inf)

    def unpacked(self, words: np.ndarray) -> Tensor:
        """Return the bits of masks (B, W) on the device, (B, V) bool."""
        if self.device.type == "cpu":
            bits = np.unpackbits(words.view(np.uint8), axis=1, count=self.vocab_size, bitorder="little")
            return torch.from_numpy(bits.view(bool))
        shifts = torch.arange(WORD_BITS, device=self.device, dtype=torch.int32)
        bits_on_device = send(torch.from_numpy(words), self.device)[..., None] >> shifts & 1
        return bits_on_device.flatten(1)[:, : self.vocab_size].bool()

    def filtered(self, logits: Tensor) -> Tensor:
        """Apply the filters to the logits (R, T, V) of the rows that are drawn at random."""
        dtype = logits.dtype
        logits = self.temperature.apply(logits, lambda scores: scores / self.temperature.value(dtype))
        logits = self.top_k.apply(
            logits, lambda scores: sampling.top_k(scores, int(self.top_k.largest), self.top_k.each)
        )
        logits = self.top_p_tail.apply(logits, lambda scores: sampling.top_p(scores, self.top_p_tail.value(dtype)))
        return self.min_p.apply(logits, lambda scores: sampling.min_p(scores, self.min_p.value(dtype)))

    def draw_at_random(self, logits: Tensor) -> Tensor:
        """Draw an id for each place (R, T) from the logits (R, T, V) of the rows that are drawn at random."""
        logits, places = self.filtered(logits), logits.shape[1]
        requests = [self.requests[i] for i in self.random]
        seeds = [request.params.seed for request in requests for _ in range(places)]
        positions = [request.count + place for request in requests for place in range(places)]
        draws = sampling.uniform_draws(seeds, positions)
        return sampling.sample(logits.flatten(0, 1), draws).to(logits.device).view(len(requests), places)

    def top(self, logits: Tensor) -> tuple[list[int], Tensor, Tensor] | None:
        """Return how many of the most likely ids each row asks for, these ids (B, T, K) and their log-probabilities."""
        most = max(self.top_counts, default=0)
        return (self.top_counts, *sampling.most_likely(logits, most)) if most else None


def logit_bias(biases: Sequence[dict[int, float]], device: torch.device) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return the rows, ids and numbers of all biases, (N,) each; None if there are none."""
    entries = [(row, token, number) for row, bias in enumerate(biases) for token, number in bias.items()]
    if not entries:
        return None
    rows, ids, numbers = zip(*entries, strict=True)
    return send(torch.tensor(rows), device), send(torch.tensor(ids), device), send(torch.tensor(numbers), device)
