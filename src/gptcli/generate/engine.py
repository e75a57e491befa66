"""The generation core: ids in, ids out, without text, tokenizer, terminal or file.

A request is one sample; requests join and leave at any step. Each step reads a chunk of the windows that are not read
yet, and decodes one step of the others, side by side over one KV cache. A request holds all that it needs to go on, so
the cache can be dropped and rebuilt at any time.
Shapes: B requests, T tokens read at a time (a request's last id and its draft), V vocab.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gptcli.errors import OutOfMemoryError
from gptcli.generate.config import ENGINE_DEFAULTS, EngineConfig
from gptcli.generate.lookup import PromptLookup
from gptcli.generate.prefix import accepted_length
from gptcli.generate.reading import WindowReader
from gptcli.generate.requests import Request
from gptcli.generate.sampler import Drafts, Drawn, Sampler
from gptcli.generate.slots import Prefix, Slots
from gptcli.generate.step import DecodingStep
from gptcli.models.estimate import BYTES_FP32
from gptcli.models.gpt import GPT
from gptcli.nn.device import machine_memory_bytes, send
from gptcli.nn.finite import overflow_error

LOGIT_COPIES = 4
"""Most copies of a request's logits in fp32 that the filters hold at once."""


class EngineStatistics(NamedTuple):
    """What an engine has done since it was made, and what it holds now."""

    tokens_drawn: int
    tokens_read: int
    """Tokens of windows, without those that the cache held already."""
    tokens_cached: int
    """Tokens of prompts that the cache held already."""
    slots: int
    slots_used: int
    cache_bytes: int
    """Memory of all slots; a CPU takes it only as they fill."""


class Ahead(NamedTuple):
    """A step that was begun before the ids of the last one were known on the host."""

    requests: list[Request]
    logits: Tensor
    """(B, 1, V)"""


class Engine:
    """Generation of tokens from `model`; `step` decodes in place of the model itself.

    A sample is a function of its own ids and seed (up to the rounding of a batched matmul), whatever runs beside it and
    whatever the cache holds. An engine is used by one thread.
    """

    def __init__(
        self,
        model: GPT,
        config: EngineConfig = ENGINE_DEFAULTS,
        step: DecodingStep | None = None,
    ) -> None:
        self.model, self.config = model, config
        self.decoding_step = step or model
        self.decodes_plainly = self.decoding_step is model
        """Whether decoding needs no static shapes, so that a chunk may be read in the same pass."""
        self.device = model.embedding.weight.device
        self.context_length = min(model.config.context_length, config.context or model.config.context_length)
        self.sampler = Sampler(model.config.vocab_size, self.device)
        self.looks_ahead = self.device.type == "cuda" and not config.speculate  # a draft depends on the ids before
        self.ahead: Ahead | None = None
        self.queue: list[Request] = []
        """The requests that wait for a slot, in order."""
        self.slots = self.new_slots(self.fitting_rows())
        self.drawn = self.cached = 0
        self.reader = WindowReader(model, config.chunk)
        self.is_stepping = False

    def fitting_rows(self) -> int:
        """Return the number of slots, whose keys, values and logits must fit into the memory for them."""
        config, weight = self.model.config, self.model.embedding.weight
        numbers = 2 * config.n_layer * config.kv_heads * config.head_width * self.context_length
        row_bytes = numbers * weight.element_size() + LOGIT_COPIES * BYTES_FP32 * config.vocab_size
        limit = self.config.cache_bytes or machine_memory_bytes(self.device) // 2
        return max(1, min(self.config.rows, limit // row_bytes))

    def new_slots(self, rows: int) -> Slots:
        """Return `rows` empty slots, or half as many until they fit."""
        while True:
            try:
                return Slots(self.model.new_cache(rows, self.context_length), 1 + self.config.speculate)
            except torch.OutOfMemoryError:
                pass
            if rows == 1:
                raise self.no_memory()
            rows //= 2
            torch.cuda.empty_cache()

    def no_memory(self) -> OutOfMemoryError:
        """Return the error for a request that does not fit alone."""
        return OutOfMemoryError(
            f"one sample does not fit into the memory of {self.device}", "ask for fewer tokens, or use --device cpu"
        )

    @property
    def running(self) -> int:
        """Number of requests that hold slots."""
        return self.slots.used

    @property
    def waiting(self) -> int:
        """Number of requests that wait for slots."""
        return len(self.queue)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.queue and not self.slots.used

    @property
    def statistics(self) -> EngineStatistics:
        """What the engine has done, and what it holds."""
        cache = self.slots.cache
        size = sum(memory.nbytes for memory in (*cache.keys, *cache.values))
        return EngineStatistics(self.drawn, self.reader.count, self.cached, cache.slots, self.slots.used, size)

    def add(self, request: Request) -> None:
        """Let a request wait for a slot. Of a prompt longer than the context only the end is read."""
        request.window_start = max(request.window_start, len(request.ids) - self.context_length)
        if self.config.speculate and request.may_draft:
            request.lookup = request.lookup or PromptLookup(self.config.speculate)
        self.queue.append(request)

    def cancel(self, request: Request) -> None:
        """End a request, wherever it is. Its slot is free at once, or at the end of the step that is under way."""
        if request.finish_reason is None:
            request.finish_reason = "cancelled"
        if not self.is_stepping:
            self.release()

    def close(self) -> None:
        """Cancel all requests, and give the memory back."""
        for request in (*self.queue, *self.slots.requests):
            self.cancel(request)
        self.ahead, self.slots = None, Slots(self.model.new_cache(0, 0))

    def run(self, requests: Sequence[Request]) -> Iterator[Request]:
        """Generate every request to its end; yield a request each time it has grown.

        Requests of similar length are read together. The caller may end a request by setting its `finish_reason`.
        Training mode is restored at the end.

        Raises:
            GptcliError: a request's error, such as OutOfMemoryError, where not even one fits on the device, and
                CheckpointError, where the model's logits are not finite.
        """
        was_training = self.model.training
        pending = sorted(requests, key=lambda request: len(request.ids))
        for request in pending:
            self.add(request)
        own = set(pending)
        try:
            while own:
                for request in self.step():
                    if request.error is not None and request in own:
                        raise request.error
                    if request in own:
                        yield request
                own = {request for request in own if request.finish_reason is None}
        finally:
            for request in own:
                self.cancel(request)
            self.model.train(was_training)

    @torch.no_grad()
    def step(self) -> list[Request]:
        """Read a chunk of the windows and decode one step; return the requests that have grown or ended."""
        if self.model.training:
            self.model.eval()
        self.is_stepping = True
        try:
            self.release()
            grown = self.advance()
            self.release()
            self.prepare()
            return grown
        except torch.OutOfMemoryError:
            pass
        finally:
            self.is_stepping = False
        # The tensors of the step are free only now that the exception is gone.
        return self.shrink()

    def advance(self) -> list[Request]:
        """Admit what fits, read a chunk, draw an id for every request that has been read, and append them."""
        self.admit()
        requests = self.slots.decoding_requests()
        drafts = self.drafts(requests)
        parts: list[Tensor] = []
        fresh: Iterable[tuple[Request, Tensor]]
        if requests and self.slots.reading and self.decodes_plainly and not any(drafts):
            logits, fresh = self.reader.decode_and_read(self.slots)
            parts.append(logits)
        else:
            if requests:
                parts.append(self.decode(requests, drafts))
            fresh = self.reader.read(self.slots)
        for request, logits in fresh:
            parts.append(logits)
            for twin in self.twins(request):
                self.enter(twin, Prefix(self.slots.number(request), request.window_length, False))
                self.slots.join(twin)
                parts.append(logits)
        if not parts:
            return []
        places = parts[0].shape[1]
        parts = [logits.expand(-1, places, -1) for logits in parts]
        requests = self.slots.decoding_requests()
        drafts += [[]] * (len(requests) - len(drafts))
        self.sampler.assign(requests)
        drawn = self.sampler.draw(torch.cat(parts) if len(parts) > 1 else parts[0], drafts)
        self.ahead = self.look_ahead(requests, drawn)
        self.append(requests, drawn, drafts)
        return requests

    def admit(self) -> None:
        """Give free slots to the requests that wait, in order.

        A request waits while another one's window is read that begins as its own does.
        """
        count = self.slots.free  # a request that waits for a prefix counts, so that none overtakes it
        admitted, self.queue = self.queue[:count], self.queue[count:]
        waiting = []
        for request in admitted:
            self.slide(request)
            prefix = self.slots.longest_prefix(request)
            if prefix.is_being_read:
                waiting.append(request)
            else:
                self.enter(request, prefix)
                if self.slots.unread(request) == 1 and prefix.length:
                    self.slots.join(request)
        self.queue = waiting + self.queue

    def enter(self, request: Request, prefix: Prefix) -> None:
        """Give a request a slot that holds a prefix of its window."""
        self.slots.enter(request, prefix)
        if not request.count:
            request.cached_tokens = prefix.length
            self.cached += prefix.length

    def twins(self, request: Request) -> list[Request]:
        """Take from the queue the requests whose windows are the same as that of a request that has just been read."""
        window, length = request.window, request.window_length
        found = [
            other
            for other in self.queue
            if other.window_length == length and other.window == window and other.prompt_logprobs is None
        ][: self.slots.free]
        if found:
            taken = set(found)
            self.queue = [other for other in self.queue if other not in taken]
        return found

    def drafts(self, requests: Sequence[Request]) -> list[Sequence[int]]:
        """Return the draft tokens of each request, which are checked while its last id is read."""
        if not self.config.speculate or not requests:
            return [[] for _ in requests]
        room = self.slots.cache.capacity - self.slots.longest - 1
        return [
            request.lookup.draft(request.ids, min(room, request.params.max_new_tokens - request.count - 1))
            if request.lookup
            else []
            for request in requests
        ]

    def decode(self, requests: list[Request], drafts: Drafts) -> Tensor:
        """Read each request's last id and its draft, and return the logits (B, T, V) after each of them."""
        if self.ahead is not None:
            if self.ahead.requests == requests:
                return self.ahead.logits
            self.forget_ahead()
        longest = max(map(len, drafts))
        ids = [
            [request.ids[-1], *draft, *[0] * (longest - len(draft))]
            for request, draft in zip(requests, drafts, strict=True)
        ]
        return self.decoding_step(send(torch.tensor(ids), self.device), self.slots.cache)

    def look_ahead(self, requests: list[Request], drawn: Drawn) -> Ahead | None:
        """Start the next step on a GPU while the host still waits for the ids.

        Its logits are unused if a request now ends or another one joins. Returns None where they are certainly not
        needed.
        """
        if not self.looks_ahead or all(request.count + 1 >= request.params.max_new_tokens for request in requests):
            return None
        if max(self.slots.cache.lengths[: len(requests)]) == self.slots.cache.capacity:
            return None
        return Ahead(requests, self.decoding_step(drawn.ids, self.slots.cache))

    def append(self, requests: Sequence[Request], drawn: Drawn, drafts: Drafts) -> None:
        """Append to every request the id drawn at its first place, and the next ones as long as its draft was right."""
        # No request changes before every number is on the host, so that running out of memory loses no draw.
        for request, choices, draft in zip(requests, drawn.result(), drafts, strict=True):
            right = accepted_length([choice.token for choice in choices], draft)
            if request.lookup:
                request.lookup.learn(len(draft), right)
            for token, logprob, top in choices[: 1 + right]:
                if request.finish_reason is not None:
                    break
                if logprob != logprob:
                    request.fail(overflow_error())
                    break
                self.drawn += 1
                request.append(token, logprob, top)
                if request.finish_reason is None and self.is_full(request):
                    request.finish_reason = "length"

    def is_full(self, request: Request) -> bool:
        """Return whether the model's context is full and the request is to end there."""
        return request.params.overflow == "stop" and request.window_length > self.context_length

    def release(self) -> None:
        """Take the requests that have ended out of the queue and the slots."""
        if any(request.finish_reason is not None for request in self.queue):
            self.queue = [request for request in self.queue if request.finish_reason is None]
        for request in [request for request in reversed(self.slots.requests) if request.finish_reason is not None]:
            self.forget_ahead()
            self.slots.leave(request, is_finite=request.error is None)

    def prepare(self) -> None:
        """Let every slot hold what its request reads next, where it has grown or has outgrown the context."""
        if self.ahead is None:
            self.slots.truncate()
        for request in reversed(self.slots.decoding_requests()):
            if request.window_length > self.context_length:
                self.forget_ahead()
                self.slots.begin_again(request)
                self.slide(request)

    def slide(self, request: Request) -> None:
        """Let a request that has outgrown the context go on from the last half of its window."""
        if request.window_length > self.context_length:
            request.window_start = len(request.ids) - max(1, self.context_length // 2)

    def forget_ahead(self) -> None:
        """Drop the step that was begun, after which every slot holds its window but for the last id again."""
        if self.ahead is not None:
            self.ahead = None
            self.slots.truncate()

    def shrink(self) -> list[Request]:
        """Let all requests wait for half as many slots; return those that have ended, since not even one fits."""
        self.release()
        running = self.slots.in_order()
        if len(running) == 1:
            running[0].fail(self.no_memory())
        self.ahead = None
        self.queue = [*running, *self.queue]
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.slots = Slots(self.model.new_cache(0, 0))
        torch.cuda.empty_cache()
        self.slots = self.new_slots(max(1, len(running) // 2))
        return [request for request in running if request.finish_reason is not None]
