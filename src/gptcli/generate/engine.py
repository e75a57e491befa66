"""The decoding engine: ids in, ids out, without text, tokenizer, terminal or file.

A request is one sample; requests are decoded side by side over one KV cache. A request holds all that it needs to go
on, so the cache can be dropped and rebuilt at any time, which is how requests move between batches.
Shapes: B requests, T tokens read at a time (a request's last id and its draft), V vocab.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gptcli.errors import OutOfMemoryError
from gptcli.generate import sampling
from gptcli.generate.config import GenerationConfig
from gptcli.generate.lookup import PromptLookup
from gptcli.generate.merge import merge_caches
from gptcli.generate.prefix import accepted_length, read_shared_prefix
from gptcli.generate.requests import FinishReason, Request, RequestBatch
from gptcli.generate.step import DecodingStep
from gptcli.models.estimate import BYTES_FP32
from gptcli.models.gpt import GPT
from gptcli.nn.cache import KVCache
from gptcli.nn.device import HostCopy, machine_memory_bytes
from gptcli.nn.finite import overflow_error

SMALLEST_CAPACITY = 256
"""Slots of a new cache, unless the model's context is shorter; a full cache is doubled."""
LOGIT_COPIES = 4
"""Most copies of a request's logits in fp32 that the filters hold at once."""

Drafts = list[list[int]]
"""The draft tokens of each request of a batch."""


class Drawn(NamedTuple):
    """Ids that were drawn, one for each place."""

    ids: Tensor
    """(B, T)"""
    on_host: HostCopy
    """The same and their log-probabilities (B, T), as soon as they have been copied."""


class Engine:
    """Generation of tokens from `model` by the settings of `config`; each token of `stop_ids` is the last of a request.

    `step` decodes in place of the model itself.
    """

    def __init__(
        self, model: GPT, config: GenerationConfig, stop_ids: Collection[int] = (), step: DecodingStep | None = None
    ) -> None:
        self.model, self.config, self.stop_ids = model, config, frozenset(stop_ids)
        self.decoding_step = step or model
        self.context_length = model.config.context_length
        self.device = model.embedding.weight.device
        # Draft tokens and the repetition penalty depend on the ids before.
        self.looks_ahead = self.device.type == "cuda" and not config.speculate and config.repetition_penalty == 1

    @torch.no_grad()
    def run(self, requests: Sequence[Request]) -> Iterator[Request]:
        """Generate every request to its end; yield a request each time one id has been appended to it.

        Requests of similar length are read together, at most `batch_size` of them, and of a prompt longer than the
        context only the end. The caller may end a request by setting its `finish_reason`. The ids drawn depend on the
        request's own ids and seed only (up to the rounding of a batched matmul). Training mode is restored at the end.

        Raises:
            OutOfMemoryError: not even one request fits on the device.
            CheckpointError: the model's logits are not finite.
        """
        was_training = self.model.training
        self.model.eval()
        waiting = sorted(requests, key=lambda request: len(request.ids))
        for request in waiting:
            request.window_start = max(request.window_start, len(request.ids) - self.context_length)
        size = min(self.config.batch_size, self.fitting_requests(waiting))
        try:
            while waiting:
                fits = True
                try:
                    yield from self.run_batch(waiting[:size])
                except torch.OutOfMemoryError:
                    fits = False
                # The batch's tensors are free only now that the exception is gone.
                alive = sum(request.finish_reason is None for request in waiting[:size])
                waiting = [request for request in waiting if request.finish_reason is None]
                if not fits:
                    size = self.smaller(alive)
        finally:
            self.model.train(was_training)

    def fitting_requests(self, requests: Sequence[Request]) -> int:
        """Return the number of requests that may be read at once.

        On a CPU, where running out of memory raises no error, their keys, values and logits must fit into half of it.
        """
        if self.device.type != "cpu" or not requests:
            return self.config.batch_size
        config, weight = self.model.config, self.model.embedding.weight
        numbers = 2 * config.n_layer * config.kv_heads * config.head_width * self.capacity(requests)
        row_bytes = numbers * weight.element_size() + LOGIT_COPIES * BYTES_FP32 * config.vocab_size
        return max(1, machine_memory_bytes(self.device) // 2 // row_bytes)

    def smaller(self, requests: int) -> int:
        """Return the batch size to continue with after `requests` requests did not fit."""
        if requests <= 1:
            raise OutOfMemoryError(
                f"one sample does not fit into the memory of {self.device}", "ask for fewer tokens, or use --device cpu"
            )
        torch.cuda.empty_cache()
        return requests // 2

    def run_batch(self, requests: list[Request]) -> Iterator[Request]:
        """Generate requests side by side; those that have ended leave the batch, so that they cost no further work."""
        if self.config.speculate:
            for request in requests:
                request.lookup = request.lookup or PromptLookup(self.config.speculate)
        cache, logits = self.prefill(requests)
        batch = RequestBatch(list(requests), cache, self.seen_ids(requests))
        drafts: Drafts = [[]] * len(requests)
        while True:
            drawn = self.draw(batch, logits, drafts)
            ahead = self.look_ahead(batch, drawn)
            yield from self.append(batch, drawn, drafts)
            alive = [i for i, request in enumerate(batch.requests) if request.finish_reason is None]
            if not alive:
                return
            if ahead is not None and len(alive) == len(batch.requests):
                logits = ahead
                continue
            batch.select(alive)
            batch.cache.truncate([request.window_length - 1 for request in batch.requests])
            if batch.cache.length == batch.cache.capacity:
                logits, drafts = self.make_room(batch), [[]] * len(alive)
            else:
                drafts = self.drafts(batch)
                logits = self.decode(batch.requests, batch.cache, drafts)

    def prefill(self, requests: Sequence[Request]) -> tuple[KVCache, Tensor]:
        """Read the requests' windows; return a cache that holds them, and the logits (B, 1, V) after them.

        A request that has outgrown the model's context slides: only the last half of its window is kept. A window that
        several requests share, as the samples of one prompt do, is read once and its cache copied; so is a prefix that
        all windows share. The rest is read in one pass, padded to the longest.
        """
        for request in requests:
            if request.window_length > self.context_length:
                request.window_start = len(request.ids) - max(1, self.context_length // 2)
        windows = [tuple(request.ids[request.window_start :]) for request in requests]
        unique = {window: i for i, window in enumerate(dict.fromkeys(windows))}
        cache, shared = read_shared_prefix(self.model, list(unique), self.capacity(requests))
        counts = [len(window) - shared for window in unique]
        ids = [[*window[shared:], *[0] * (max(counts) - count)] for window, count in zip(unique, counts, strict=True)]
        logits = self.model.last_logits(torch.tensor(ids, device=self.device), cache, counts)
        if len(unique) < len(requests):
            copies = [unique[window] for window in windows]
            cache.select(copies)
            logits = logits[torch.tensor(copies, device=self.device)]
        return cache, logits[:, None]

    def drafts(self, batch: RequestBatch) -> Drafts:
        """Return the draft tokens of each request, which are checked while its last id is read."""
        room = batch.cache.capacity - batch.cache.length - 1
        return [
            request.lookup.draft(request.ids, min(room, self.config.max_new_tokens - request.count - 1))
            if request.lookup
            else []
            for request in batch.requests
        ]

    def decode(self, requests: Sequence[Request], cache: KVCache, drafts: Drafts) -> Tensor:
        """Read each request's last id and its draft, and return the logits (B, T, V) after each of them."""
        longest = max(map(len, drafts))
        ids = [
            [request.ids[-1], *draft, *[0] * (longest - len(draft))]
            for request, draft in zip(requests, drafts, strict=True)
        ]
        return self.decoding_step(torch.tensor(ids, device=self.device), cache)

    def make_room(self, batch: RequestBatch) -> Tensor:
        """Decode without drafts where the batch's cache is full; return the logits (B, 1, V) in the batch's new order.

        Requests that have outgrown the model's context slide and are read again, the same for every position scheme.
        The others move to a larger cache.
        """
        full = [i for i, request in enumerate(batch.requests) if request.window_length > self.context_length]
        others = [i for i, request in enumerate(batch.requests) if request.window_length <= self.context_length]
        full_requests = [batch.requests[i] for i in full]
        if batch.seen is not None:
            batch.seen = batch.seen[torch.tensor(others + full, device=self.device)]
        caches, logits = [], []
        if others:
            requests = [batch.requests[i] for i in others]
            if full:
                batch.cache.select(others)
            caches.append(merge_caches(self.model, [batch.cache], self.capacity(requests)))
            logits.append(self.decode(requests, caches[0], [[]] * len(requests)))
        if full:
            cache, slid = self.prefill(full_requests)
            caches.append(cache)
            logits.append(slid)
        batch.requests = [batch.requests[i] for i in others] + full_requests
        batch.cache = caches[0] if len(caches) == 1 else merge_caches(self.model, caches, self.capacity(batch.requests))
        return torch.cat(logits)

    def capacity(self, requests: Sequence[Request]) -> int:
        """Return the slots for the windows and their growth: as many as are needed, up to twice the longest window."""
        longest = max(request.window_length for request in requests)
        still_to_come = self.config.max_new_tokens - min(request.count for request in requests)
        return min(self.context_length, longest + still_to_come, max(2 * longest, SMALLEST_CAPACITY))

    def draw(self, batch: RequestBatch, logits: Tensor, drafts: Drafts) -> Drawn:
        """Draw an id for each place of the logits (B, T, V), with its log-probability under the model's distribution.

        The draw at a place depends on the request's seed and that place only, so drafts change no id.
        """
        B, T, _ = logits.shape
        logits = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))  # (B*T, V)
        scores = self.filtered(logits, self.seen_at_positions(batch, drafts, T))
        if self.config.is_greedy:
            ids = sampling.greedy(scores)
        else:
            seeds = [request.seed for request in batch.requests for _ in range(T)]
            places = [request.count + place for request in batch.requests for place in range(T)]
            ids = sampling.sample(scores, sampling.uniform_draws(seeds, places)).to(logits.device)
        logprobs = sampling.log_probabilities(logits, ids)
        ids = ids.view(B, T)
        return Drawn(ids, HostCopy(ids, logprobs.view(B, T)))

    def look_ahead(self, batch: RequestBatch, drawn: Drawn) -> Tensor | None:
        """Start the next step on a GPU while the host still waits for the ids; return its logits (B, 1, V).

        They are unused if a request now ends. Returns None where they are certainly not needed.
        """
        if not self.looks_ahead or all(request.count + 1 >= self.config.max_new_tokens for request in batch.requests):
            return None
        if batch.cache.length == batch.cache.capacity:
            return None
        return self.decoding_step(drawn.ids, batch.cache)

    def append(self, batch: RequestBatch, drawn: Drawn, drafts: Drafts) -> Iterator[Request]:
        """Append to every request the id drawn at its first place, and the next ones as long as its draft was right."""
        # No request changes before every number is on the host, so that running out of memory loses no draw.
        drawn_ids, logprobs = (numbers.tolist() for numbers in drawn.on_host.result())
        kept = [ids[: 1 + accepted_length(ids, draft)] for ids, draft in zip(drawn_ids, drafts, strict=True)]
        if batch.seen is not None:
            rows = [i for i, ids in enumerate(kept) for _ in ids]
            batch.seen[rows, [token for ids in kept for token in ids]] = True
        for i, request in enumerate(batch.requests):
            if request.lookup:
                request.lookup.learn(len(drafts[i]), len(kept[i]) - 1)
            for token, logprob in zip(kept[i], logprobs[i], strict=False):
                if logprob != logprob:
                    raise overflow_error()
                request.ids.append(token)
                request.logprobs.append(logprob)
                request.finish_reason = self.finish_reason(request)
                yield request
                if request.finish_reason is not None:
                    break

    def filtered(self, logits: Tensor, seen: Tensor | None) -> Tensor:
        """Apply the config's filters to logits (B, V), in transformers' order."""
        config = self.config
        if seen is not None:
            logits = sampling.repetition_penalty(logits, seen, config.repetition_penalty)
        if config.is_greedy:
            return logits
        if config.temperature != 1:
            logits = logits / config.temperature
        if config.top_k:
            logits = sampling.top_k(logits, config.top_k)
        if config.top_p is not None and config.top_p < 1:
            logits = sampling.top_p(logits, config.top_p)
        if config.min_p:
            logits = sampling.min_p(logits, config.min_p)
        return logits

    def seen_ids(self, requests: Sequence[Request]) -> Tensor | None:
        """Return the ids that occur in each request, (B, V) bool; None without a repetition penalty."""
        if self.config.repetition_penalty == 1:
            return None
        seen = torch.zeros(len(requests), self.model.config.vocab_size, dtype=torch.bool)
        for i, request in enumerate(requests):
            seen[i, request.ids] = True
        return seen.to(self.device)

    def seen_at_positions(self, batch: RequestBatch, drafts: Drafts, places: int) -> Tensor | None:
        """Return the ids that occur before each place, (B*T, V) bool: the request's and its draft's up to there."""
        if batch.seen is None:
            return None
        seen = batch.seen[:, None].repeat(1, places, 1)  # (B, T, V)
        drafted = [
            [*draft, *[request.ids[-1]] * (places - 1 - len(draft))]
            for request, draft in zip(batch.requests, drafts, strict=True)
        ]
        index = torch.tensor(drafted, dtype=torch.long, device=self.device)[..., None]  # (B, T-1, 1)
        for place in range(1, places):
            seen[:, place:].scatter_(2, index[:, place - 1 : place].expand(-1, places - place, -1), True)
        return seen.flatten(0, 1)

    def finish_reason(self, request: Request) -> FinishReason | None:
        """Return why the request ends with its last id, or None if it goes on."""
        if request.ids[-1] in self.stop_ids:
            return "eot"
        is_full = self.config.overflow == "stop" and request.window_length > self.context_length
        return "length" if is_full or request.count >= self.config.max_new_tokens else None
