"""The decoding engine: ids in, ids out. Knows no text, no tokenizer, no terminal and no file.

A row is one sample; rows are decoded side by side over one KV cache. Whatever a row needs to go on is in the row
itself, so the cache can be dropped and made again at any time, which is how rows move between batches.
Shapes: B rows, T tokens, V vocab.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from gptcli.errors import CheckpointError, OutOfMemoryError
from gptcli.generate import sampling
from gptcli.generate.config import GenerationConfig
from gptcli.generate.merge import merge_caches
from gptcli.models.gpt import GPT
from gptcli.nn.cache import KVCache

FinishReason = Literal["stop", "eot", "length"]

SMALLEST_CAPACITY = 256
"""Slots that a cache is given at first where the model has as many; after that it doubles when it is full."""


@dataclass(slots=True, eq=False)
class Row:
    """One sample: the prompt's ids and the ids drawn since, and of them the window that the model currently reads."""

    ids: list[int]
    seed: int
    prompt_length: int
    window_start: int = 0
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    @property
    def count(self) -> int:
        """Tokens drawn so far."""
        return len(self.ids) - self.prompt_length

    @property
    def window_length(self) -> int:
        return len(self.ids) - self.window_start


@dataclass(slots=True)
class Batch:
    """Rows that are decoded together. The cache holds all of each row's window but its last id, which is read next."""

    rows: list[Row]
    cache: KVCache
    seen: Tensor | None
    """(B, V) bool, the ids that stand in each row; kept only where the repetition penalty asks for it."""

    def select(self, indices: list[int]) -> None:
        """Keep the rows at `indices`, in that order."""
        if indices == list(range(len(self.rows))):
            return
        index = torch.tensor(indices, device=self.cache.start.device)
        self.rows = [self.rows[i] for i in indices]
        self.cache.select(index)
        self.seen = None if self.seen is None else self.seen[index]


class Engine:
    """Draws tokens from `model` as `config` says; a row ends with the token `eot_id`, which is its last."""

    def __init__(self, model: GPT, config: GenerationConfig, eot_id: int | None = None) -> None:
        self.model, self.config, self.eot_id = model, config, eot_id
        self.context_length = model.config.context_length
        self.device = model.embedding.weight.device

    @torch.no_grad()
    def run(self, rows: Sequence[Row]) -> Iterator[Row]:
        """Generate every row to its end; yields a row each time one id has been appended to it.

        Rows of similar length are read together, at most `batch_size` of them, and of a prompt longer than the context
        only the end. Whoever iterates may end a row by setting its `finish_reason`. What a row becomes depends on its
        own ids and seed only (up to the rounding of a batched matrix product). Training mode is restored at the end.

        Raises:
            OutOfMemoryError: not even one row fits on the device.
            CheckpointError: the model's logits are not numbers.
        """
        was_training = self.model.training
        self.model.eval()
        waiting = sorted(rows, key=lambda row: len(row.ids))
        for row in waiting:
            row.window_start = max(row.window_start, len(row.ids) - self.context_length)
        size = self.config.batch_size
        try:
            while waiting:
                fits = True
                try:
                    yield from self.run_batch(waiting[:size])
                except torch.OutOfMemoryError:
                    fits = False
                # The batch's tensors are free only now that the exception is gone.
                alive = sum(row.finish_reason is None for row in waiting[:size])
                waiting = [row for row in waiting if row.finish_reason is None]
                if not fits:
                    size = self.smaller(alive)
        finally:
            self.model.train(was_training)

    def smaller(self, rows: int) -> int:
        """The batch size to go on with after `rows` rows did not fit."""
        if rows <= 1:
            raise OutOfMemoryError(
                f"one sample does not fit into the memory of {self.device}", "ask for fewer tokens, or use --device cpu"
            )
        torch.cuda.empty_cache()
        return rows // 2

    def run_batch(self, rows: list[Row]) -> Iterator[Row]:
        """Generate rows side by side; those that have ended leave the batch, so that no work is done for them."""
        cache, logits = self.prefill(rows)
        batch = Batch(list(rows), cache, self.seen_ids(rows))
        while True:
            yield from self.draw(batch, logits)
            alive = [i for i, row in enumerate(batch.rows) if row.finish_reason is None]
            if not alive:
                return
            batch.select(alive)
            is_full = batch.cache.length == batch.cache.capacity
            logits = self.make_room(batch) if is_full else self.decode(batch.rows, batch.cache)

    def prefill(self, rows: Sequence[Row]) -> tuple[KVCache, Tensor]:
        """Read the rows' windows in one pass, left-padded to the longest: a cache that holds them, logits (B, V).

        A row that has outgrown the model's context slides: only the last half of its window is kept. A window that
        several rows share, as the samples of one prompt do, is read once and its cache copied.
        """
        for row in rows:
            if row.window_length > self.context_length:
                row.window_start = len(row.ids) - max(1, self.context_length // 2)
        windows = [tuple(row.ids[row.window_start :]) for row in rows]
        unique = {window: i for i, window in enumerate(dict.fromkeys(windows))}
        longest = max(map(len, unique))
        padding = [longest - len(window) for window in unique]
        ids = [[0] * pad + list(window) for pad, window in zip(padding, unique, strict=True)]
        cache = self.model.new_cache(len(unique), self.capacity(rows))
        cache.start = torch.tensor(padding, device=self.device)
        logits = self.model.last_logits(torch.tensor(ids, device=self.device), cache)
        if len(unique) < len(rows):
            copies = torch.tensor([unique[window] for window in windows], device=self.device)
            cache.select(copies)
            logits = logits[copies]
        return cache, logits

    def decode(self, rows: Sequence[Row], cache: KVCache) -> Tensor:
        """Read each row's last id -> logits (B, V) for its next one."""
        return self.model.last_logits(torch.tensor([[row.ids[-1]] for row in rows], device=self.device), cache)

    def make_room(self, batch: Batch) -> Tensor:
        """What `decode` does, where the batch's cache is full: logits (B, V), the batch's rows in a new order.

        Rows that have outgrown the model's context slide and are read afresh, the same for every position scheme. The
        others move to a larger cache, without the padding that all of them have.
        """
        full = [i for i, row in enumerate(batch.rows) if row.window_length > self.context_length]
        others = [i for i, row in enumerate(batch.rows) if row.window_length <= self.context_length]
        full_rows = [batch.rows[i] for i in full]
        if batch.seen is not None:
            batch.seen = batch.seen[torch.tensor(others + full, device=self.device)]
        caches, logits = [], []
        if others:
            rows = [batch.rows[i] for i in others]
            if full:
                batch.cache.select(torch.tensor(others, device=self.device))
            caches.append(merge_caches(self.model, [batch.cache], self.capacity(rows)))
            logits.append(self.decode(rows, caches[0]))
        if full:
            cache, slid = self.prefill(full_rows)
            caches.append(cache)
            logits.append(slid)
        batch.rows = [batch.rows[i] for i in others] + full_rows
        batch.cache = caches[0] if len(caches) == 1 else merge_caches(self.model, caches, self.capacity(batch.rows))
        return torch.cat(logits)

    def capacity(self, rows: Sequence[Row]) -> int:
        """Slots for the rows' windows and some growth: what they can still need, but at most twice what they hold."""
        longest = max(row.window_length for row in rows)
        still_to_come = self.config.max_new_tokens - min(row.count for row in rows)
        return min(self.context_length, longest + still_to_come, max(2 * longest, SMALLEST_CAPACITY))

    def draw(self, batch: Batch, logits: Tensor) -> Iterator[Row]:
        """logits (B, V): append one id to every row, with its log-probability under the model's own distribution."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        scores = self.filtered(logits, batch.seen)
        if self.config.temperature == 0:
            ids = sampling.greedy(scores)
        else:
            draws = sampling.uniform_draws([row.seed for row in batch.rows], [row.count for row in batch.rows])
            ids = sampling.sample(scores, draws).to(logits.device)
        if batch.seen is not None:
            batch.seen.scatter_(1, ids[:, None], True)
        logprobs = sampling.log_probabilities(logits, ids)
        # Nothing of a row changes before every number is on the host, so that running out of memory loses no draw.
        for row, token, logprob in zip(batch.rows, ids.tolist(), logprobs.tolist(), strict=True):
            if logprob != logprob:
                raise CheckpointError("the model's logits are not numbers", "its weights are damaged or it diverged")
            row.ids.append(token)
            row.logprobs.append(logprob)
            row.finish_reason = self.finish_reason(row)
            yield row

    def filtered(self, logits: Tensor, seen: Tensor | None) -> Tensor:
        """logits (B, V) -> what is drawn from, (B, V), by the config's filters in transformers' order."""
        config = self.config
        if seen is not None:
            logits = sampling.repetition_penalty(logits, seen, config.repetition_penalty)
        if config.temperature == 0:
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

    def seen_ids(self, rows: Sequence[Row]) -> Tensor | None:
        """(B, V) bool: the ids that stand in each row, none where nothing asks for them."""
        if self.config.repetition_penalty == 1:
            return None
        seen = torch.zeros(len(rows), self.model.config.vocab_size, dtype=torch.bool)
        for i, row in enumerate(rows):
            seen[i, row.ids] = True
        return seen.to(self.device)

    def finish_reason(self, row: Row) -> FinishReason | None:
        """Why the row ends with its last id, if it does."""
        if row.ids[-1] == self.eot_id:
            return "eot"
        is_full = self.config.overflow == "stop" and row.window_length > self.context_length
        return "length" if is_full or row.count >= self.config.max_new_tokens else None
