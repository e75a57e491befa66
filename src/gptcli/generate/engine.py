"""The decoding engine: ids in, ids out. Knows no text, no tokenizer, no terminal and no file.

A row is one sample; rows are decoded side by side over one KV cache. Whatever a row needs to go on is in the row
itself, so the cache can be dropped and made again at any time, which is how rows move between batches.
Shapes: B rows, T tokens read at a time (a row's last id and its guess), V vocab.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gptcli.errors import OutOfMemoryError
from gptcli.generate import sampling
from gptcli.generate.beginning import agreement, read_beginning
from gptcli.generate.config import GenerationConfig
from gptcli.generate.lookup import PromptLookup
from gptcli.generate.merge import merge_caches
from gptcli.generate.rows import Batch, FinishReason, Row
from gptcli.generate.step import DecodingStep, PlainStep
from gptcli.models.estimate import BYTES_FP32
from gptcli.models.gpt import GPT
from gptcli.nn.cache import KVCache
from gptcli.nn.device import HostCopy, machine_memory_bytes
from gptcli.nn.finite import overflow_error

SMALLEST_CAPACITY = 256
"""Slots that a cache is given at first where the model has as many; after that it doubles when it is full."""


LOGIT_COPIES = 4
"""Copies of a row's logits in fp32 that the filters may hold at once."""


class Drawn(NamedTuple):
    """Ids (B, T), one for each place; and on the host the same and their log-probabilities (B, T), as soon as they are
    there."""

    ids: Tensor
    on_host: HostCopy


class Engine:
    """Draws tokens from `model` as `config` says; a row ends with the token `eos_id`, which is its last.

    `step` reads the last ids of the rows, where the model itself is not to do it.
    """

    def __init__(
        self, model: GPT, config: GenerationConfig, eos_id: int | None = None, step: DecodingStep | None = None
    ) -> None:
        self.model, self.config, self.eos_id = model, config, eos_id
        self.step = step or PlainStep(model)
        self.context_length = model.config.context_length
        self.device = model.embedding.weight.device
        # A guess and the repetition penalty need to know the ids first.
        self.looks_ahead = self.device.type == "cuda" and not config.speculate and config.repetition_penalty == 1

    @torch.no_grad()
    def run(self, rows: Sequence[Row]) -> Iterator[Row]:
        """Generate every row to its end; yields a row each time one id has been appended to it.

        Rows of similar length are read together, at most `batch_size` of them, and of a prompt longer than the context
        only the end. Whoever iterates may end a row by setting its `finish_reason`. What a row becomes depends on its
        own ids and seed only (up to the rounding of a batched matrix product). Training mode is restored at the end.

        Raises:
            OutOfMemoryError: not even one row fits on the device.
            CheckpointError: the model's logits are not finite.
        """
        was_training = self.model.training
        self.model.eval()
        waiting = sorted(rows, key=lambda row: len(row.ids))
        for row in waiting:
            row.window_start = max(row.window_start, len(row.ids) - self.context_length)
        size = min(self.config.batch_size, self.fitting_rows(waiting))
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

    def fitting_rows(self, rows: Sequence[Row]) -> int:
        """The number of rows that may be read at once. On a CPU, where running out of memory raises no error, their
        keys, values and logits are to fit into half of the memory."""
        if self.device.type != "cpu" or not rows:
            return self.config.batch_size
        config, weight = self.model.config, self.model.embedding.weight
        numbers = 2 * config.n_layer * config.kv_heads * config.head_width * self.capacity(rows)
        row_bytes = numbers * weight.element_size() + LOGIT_COPIES * BYTES_FP32 * config.vocab_size
        return max(1, machine_memory_bytes(self.device) // 2 // row_bytes)

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
        if self.config.speculate:
            for row in rows:
                row.lookup = row.lookup or PromptLookup(self.config.speculate)
        cache, logits = self.prefill(rows)
        batch, guesses = Batch(list(rows), cache, self.seen_ids(rows)), [[]] * len(rows)
        while True:
            drawn = self.draw(batch, logits, guesses)
            ahead = self.look_ahead(batch, drawn)
            yield from self.append(batch, drawn, guesses)
            alive = [i for i, row in enumerate(batch.rows) if row.finish_reason is None]
            if not alive:
                return
            if ahead is not None and len(alive) == len(batch.rows):
                logits = ahead
                continue
            batch.select(alive)
            batch.cache.lengths = [row.window_length - 1 for row in batch.rows]
            if batch.cache.length == batch.cache.capacity:
                logits, guesses = self.make_room(batch), [[]] * len(alive)
            else:
                guesses = self.guesses(batch)
                logits = self.decode(batch.rows, batch.cache, guesses)

    def prefill(self, rows: Sequence[Row]) -> tuple[KVCache, Tensor]:
        """Read the rows' windows: a cache that holds them, logits (B, 1, V).

        A row that has outgrown the model's context slides: only the last half of its window is kept. A window that
        several rows share, as the samples of one prompt do, is read once and its cache copied; so is a beginning that
        all windows share. The rest is read in one pass, padded to the longest.
        """
        for row in rows:
            if row.window_length > self.context_length:
                row.window_start = len(row.ids) - max(1, self.context_length // 2)
        windows = [tuple(row.ids[row.window_start :]) for row in rows]
        unique = {window: i for i, window in enumerate(dict.fromkeys(windows))}
        cache, shared = read_beginning(self.model, list(unique), self.capacity(rows))
        counts = [len(window) - shared for window in unique]
        ids = [[*window[shared:], *[0] * (max(counts) - count)] for window, count in zip(unique, counts, strict=True)]
        logits = self.model.last_logits(torch.tensor(ids, device=self.device), cache, counts)
        if len(unique) < len(rows):
            copies = [unique[window] for window in windows]
            cache.select(copies)
            logits = logits[torch.tensor(copies, device=self.device)]
        return cache, logits[:, None]

    def guesses(self, batch: Batch) -> list[list[int]]:
        """What each row may say next, to be checked while its last id is read."""
        room = batch.cache.capacity - batch.cache.length - 1
        return [
            row.lookup.guess(row.ids, min(room, self.config.max_new_tokens - row.count - 1)) if row.lookup else []
            for row in batch.rows
        ]

    def decode(self, rows: Sequence[Row], cache: KVCache, guesses: list[list[int]]) -> Tensor:
        """Read each row's last id and its guess -> logits (B, T, V) after each of them."""
        longest = max(map(len, guesses))
        ids = [[row.ids[-1], *guess, *[0] * (longest - len(guess))] for row, guess in zip(rows, guesses, strict=True)]
        return self.step(torch.tensor(ids, device=self.device), cache)

    def make_room(self, batch: Batch) -> Tensor:
        """What `decode` does, where the batch's cache is full: logits (B, 1, V), the batch's rows in a new order.

        Rows that have outgrown the model's context slide and are read afresh, the same for every position scheme. The
        others move to a larger cache.
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
                batch.cache.select(others)
            caches.append(merge_caches(self.model, [batch.cache], self.capacity(rows)))
            logits.append(self.decode(rows, caches[0], [[]] * len(rows)))
            caches[0].advance(1)
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

    def draw(self, batch: Batch, logits: Tensor, guesses: list[list[int]]) -> Drawn:
        """logits (B, T, V) -> an id for each place, with its log-probability under the model's own distribution.

        What is drawn at a place depends on the row's seed and that place only, so guesses change no id.
        """
        B, T, _ = logits.shape
        logits = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))  # (B*T, V)
        scores = self.filtered(logits, self.seen_at_places(batch, guesses, T))
        if self.config.is_greedy:
            ids = sampling.greedy(scores)
        else:
            seeds = [row.seed for row in batch.rows for _ in range(T)]
            places = [row.count + place for row in batch.rows for place in range(T)]
            ids = sampling.sample(scores, sampling.uniform_draws(seeds, places)).to(logits.device)
        logprobs = sampling.log_probabilities(logits, ids)
        ids = ids.view(B, T)
        return Drawn(ids, HostCopy(ids, logprobs.view(B, T)))

    def look_ahead(self, batch: Batch, drawn: Drawn) -> Tensor | None:
        """The logits (B, 1, V) after what was drawn, given to a GPU to do while the host still waits for the ids.

        They are of no use if a row now ends; none where it is sure that they are not needed.
        """
        if not self.looks_ahead or all(row.count + 1 >= self.config.max_new_tokens for row in batch.rows):
            return None
        lengths = [row.window_length for row in batch.rows]
        if max(lengths) >= batch.cache.capacity:
            return None
        batch.cache.lengths = lengths
        return self.step(drawn.ids, batch.cache)

    def append(self, batch: Batch, drawn: Drawn, guesses: list[list[int]]) -> Iterator[Row]:
        """Append to every row the id drawn at its first place, and at each next one while the guess was what has been
        drawn."""
        # Nothing of a row changes before every number is on the host, so that running out of memory loses no draw.
        drawn_ids, logprobs = (numbers.tolist() for numbers in drawn.on_host.result())
        kept = [ids[: 1 + agreement(ids, guess)] for ids, guess in zip(drawn_ids, guesses, strict=True)]
        if batch.seen is not None:
            rows = [i for i, ids in enumerate(kept) for _ in ids]
            batch.seen[rows, [token for ids in kept for token in ids]] = True
        for i, row in enumerate(batch.rows):
            if row.lookup:
                row.lookup.learn(len(guesses[i]), len(kept[i]) - 1)
            for token, logprob in zip(kept[i], logprobs[i], strict=False):
                if logprob != logprob:
                    raise overflow_error()
                row.ids.append(token)
                row.logprobs.append(logprob)
                row.finish_reason = self.finish_reason(row)
                yield row
                if row.finish_reason is not None:
                    break

    def filtered(self, logits: Tensor, seen: Tensor | None) -> Tensor:
        """logits (B, V) -> what is drawn from, (B, V), by the config's filters in transformers' order."""
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

    def seen_ids(self, rows: Sequence[Row]) -> Tensor | None:
        """(B, V) bool: the ids that stand in each row, none where nothing asks for them."""
        if self.config.repetition_penalty == 1:
            return None
        seen = torch.zeros(len(rows), self.model.config.vocab_size, dtype=torch.bool)
        for i, row in enumerate(rows):
            seen[i, row.ids] = True
        return seen.to(self.device)

    def seen_at_places(self, batch: Batch, guesses: list[list[int]], places: int) -> Tensor | None:
        """(B*T, V) bool: the ids that stand before each place, those of the row and of its guess up to there."""
        if batch.seen is None:
            return None
        seen = batch.seen[:, None].repeat(1, places, 1)  # (B, T, V)
        guessed = [
            [*guess, *[row.ids[-1]] * (places - 1 - len(guess))] for row, guess in zip(batch.rows, guesses, strict=True)
        ]
        index = torch.tensor(guessed, dtype=torch.long, device=self.device)[..., None]  # (B, T-1, 1)
        for place in range(1, places):
            seen[:, place:].scatter_(2, index[:, place - 1 : place].expand(-1, places - place, -1), True)
        return seen.flatten(0, 1)

    def finish_reason(self, row: Row) -> FinishReason | None:
        """Why the row ends with its last id, if it does."""
        if row.ids[-1] == self.eos_id:
            return "eot"
        is_full = self.config.overflow == "stop" and row.window_length > self.context_length
        return "length" if is_full or row.count >= self.config.max_new_tokens else None
