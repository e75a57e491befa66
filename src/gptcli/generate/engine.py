"""The decoding engine: ids in, ids out, without text, tokenizer, terminal or file.

A request is one sample; requests are decoded side by side over one KV cache. A request holds all that it needs to go
on, so the cache can be dropped and rebuilt at any time, which is how requests move between batches.
Shapes: B requests, T tokens read at a time (a request's last id and its draft), V vocab.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gptcli.errors import OutOfMemoryError
from gptcli.generate.config import ENGINE_DEFAULTS, EngineConfig
from gptcli.generate.lookup import PromptLookup
from gptcli.generate.merge import merge_caches
from gptcli.generate.prefix import accepted_length, read_shared_prefix
from gptcli.generate.requests import Request, RequestBatch
from gptcli.generate.sampler import Drafts, Drawn, Sampler
from gptcli.generate.step import DecodingStep
from gptcli.models.estimate import BYTES_FP32
from gptcli.models.gpt import GPT
from gptcli.nn.cache import KVCache
from gptcli.nn.device import machine_memory_bytes
from gptcli.nn.finite import overflow_error

SMALLEST_CAPACITY = 256
"""Slots of a new cache, unless the model's context is shorter; a full cache is doubled."""
LOGIT_COPIES = 4
"""Most copies of a request's logits in fp32 that the filters hold at once."""


class Engine:
    """Generation of tokens from `model`; `step` decodes in place of the model itself."""

    def __init__(
        self,
        model: GPT,
        config: EngineConfig = ENGINE_DEFAULTS,
        step: DecodingStep | None = None,
    ) -> None:
        self.model, self.config = model, config
        self.decoding_step = step or model
        self.context_length = model.config.context_length
        self.device = model.embedding.weight.device
        self.sampler = Sampler(model.config.vocab_size, self.device)
        self.looks_ahead = self.device.type == "cuda" and not config.speculate  # a draft depends on the ids before

    @torch.no_grad()
    def run(self, requests: Sequence[Request]) -> Iterator[Request]:
        """Generate every request to its end; yield a request each time one id has been appended to it.

        Requests of similar length are read together, at most `config.rows` of them, and of a prompt longer than the
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
        size = min(self.config.rows, self.fitting_requests(waiting))
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
            return self.config.rows
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
            for request in filter(lambda request: request.may_draft, requests):
                request.lookup = request.lookup or PromptLookup(self.config.speculate)
        cache, logits = self.prefill(requests)
        batch = RequestBatch(list(requests), cache)
        drafts: Drafts = [[]] * len(requests)
        while True:
            self.sampler.assign(batch.requests)
            drawn = self.sampler.draw(logits, drafts)
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
            request.lookup.draft(request.ids, min(room, request.params.max_new_tokens - request.count - 1))
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
        still_to_come = max(request.params.max_new_tokens - request.count for request in requests)
        return min(self.context_length, longest + still_to_come, max(2 * longest, SMALLEST_CAPACITY))

    def look_ahead(self, batch: RequestBatch, drawn: Drawn) -> Tensor | None:
        """Start the next step on a GPU while the host still waits for the ids; return its logits (B, 1, V).

        They are unused if a request now ends. Returns None where they are certainly not needed.
        """
        if not self.looks_ahead or all(
            request.count + 1 >= request.params.max_new_tokens for request in batch.requests
        ):
            return None
        if batch.cache.length == batch.cache.capacity:
            return None
        return self.decoding_step(drawn.ids, batch.cache)

    def append(self, batch: RequestBatch, drawn: Drawn, drafts: Drafts) -> Iterator[Request]:
        """Append to every request the id drawn at its first place, and the next ones as long as its draft was right."""
        # No request changes before every number is on the host, so that running out of memory loses no draw.
        for request, choices, draft in zip(batch.requests, drawn.result(), drafts, strict=True):
            if request.error is not None:  # its grammar could not go on
                raise request.error
            right = accepted_length([choice.token for choice in choices], draft)
            if request.lookup:
                request.lookup.learn(len(draft), right)
            for token, logprob, top in choices[: 1 + right]:
                if logprob != logprob:
                    raise overflow_error()
                request.append(token, logprob, top)
                if request.finish_reason is None and self.is_full(request):
                    request.finish_reason = "length"
                yield request
                if request.finish_reason is not None:
                    break
            if request.error is not None:
                raise request.error

    def is_full(self, request: Request) -> bool:
        """Return whether the model's context is full and the request is to end there."""
        return request.params.overflow == "stop" and request.window_length > self.context_length
