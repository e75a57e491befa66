"""Log-probabilities of given continuations; each context is read once, whatever the number of its continuations.

This module handles ids only. Shapes: R rows of a batch, T time, V vocab, M scored tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gptcli.errors import OutOfMemoryError
from gptcli.evaluate.scoring import evaluation_mode
from gptcli.generate.prefix import read_shared_prefix
from gptcli.models.gpt import GPT
from gptcli.nn.cache import KVCache
from gptcli.nn.finite import overflow_error

Ids = tuple[int, ...]


class Continuation(NamedTuple):
    """Ids after a `context` of at least one id; `ids` has from one id to the model's context length."""

    context: Ids
    ids: Ids


class Score(NamedTuple):
    """The summed log-probability in nats, whether each id is the model's most likely one, and how many are."""

    logprob: float
    is_greedy: bool
    hits: int


class Group(NamedTuple):
    """A `head` that is read once, and the `tails` after it, whose outputs are scored.

    The tail of a continuation is the context's last id and the continuation without its last id.
    """

    head: Ids
    tails: tuple[Ids, ...]

    @property
    def longest(self) -> int:
        """The length of the longest tail."""
        return max(map(len, self.tails))


def score_continuations(
    model: GPT,
    continuations: Sequence[Continuation],
    *,
    batch_size: int | None = None,
    on_scored: Callable[[int], None] = lambda count: None,
) -> list[Score]:
    """Return the scores of all continuations, in their order.

    Sequences longer than the model's context are cut at the beginning, as in lm-eval. Contexts of similar length are
    read together, and a prefix that all contexts of a batch share is read once.

    Args:
        batch_size: continuations at a time at most; None: as many as take a modest amount of memory.
        on_scored: called with the number of scores after each batch.

    Raises:
        OutOfMemoryError: the device has no memory for one continuation.
    """
    limit = model.config.context_length
    wanted: dict[Ids, dict[Ids, list[int]]] = {}
    for number, (context, ids) in enumerate(continuations):
        assert context and 1 <= len(ids) <= limit
        window = (*context, *ids)[-(limit + 1) : -1]
        head, tail = window[: -len(ids)], window[-len(ids) :]
        wanted.setdefault(head, {}).setdefault(tail, []).append(number)
    scores: dict[int, Score] = {}
    with evaluation_mode(model):
        for batch in batches(wanted, BatchLimits.of(model, batch_size)):
            numbers = [wanted[group.head][tail] for group in batch for tail in group.tails]
            targets = [[continuations[number].ids for number in row] for row in numbers]
            found = read(model, batch, targets)
            scores.update(zip((number for row in numbers for number in row), found, strict=True))
            on_scored(len(found))
    return [scores[number] for number in range(len(continuations))]


class BatchLimits(NamedTuple):
    """The largest batch: its rows, tokens in its cache, scored positions, and positions of one row with its padding."""

    rows: int
    tokens: int
    scored: int
    width: int

    @classmethod
    def of(cls, model: GPT, batch_size: int | None) -> BatchLimits:
        """Return limits that keep the fp32 logits within 256 MiB on a CPU and 2 GiB on an accelerator."""
        on_cpu = model.embedding.weight.device.type == "cpu"
        logits_bytes, tokens = (2**28, 2**13) if on_cpu else (2**31, 2**16)
        scored = logits_bytes // (4 * model.config.vocab_size)
        return cls(batch_size or tokens, tokens, scored, model.config.context_length)

    def hold(self, batch: Sequence[Group]) -> bool:
        """Return whether a batch is within the limits."""
        rows = sum(len(group.tails) for group in batch)
        tail = max(group.longest for group in batch)
        width = max(len(group.head) for group in batch) + tail
        return rows <= self.rows and rows * width <= self.tokens and rows * tail <= self.scored and width <= self.width


def batches(wanted: dict[Ids, dict[Ids, list[int]]], limits: BatchLimits) -> list[list[Group]]:
    """Return all heads with their tails in batches, longest first; a single row is a batch whatever the limits."""
    groups: list[Group] = []
    for head, tails in wanted.items():
        kept: list[Ids] = []
        for tail in sorted(tails, key=len, reverse=True):
            if kept and not limits.hold([Group(head, (*kept, tail))]):
                groups.append(Group(head, tuple(kept)))
                kept = []
            kept.append(tail)
        groups.append(Group(head, tuple(kept)))
    groups.sort(key=lambda group: (len(group.head) + group.longest, group.longest), reverse=True)
    found: list[list[Group]] = []
    for group in groups:
        if found and limits.hold([*found[-1], group]):
            found[-1].append(group)
        else:
            found.append([group])
    return found


def read(model: GPT, batch: list[Group], targets: list[list[Ids]]) -> list[Score]:
    """Return the scores of `targets`, which are given for each row; halve a batch that does not fit the device."""
    try:
        return read_at_once(model, batch, targets)
    except torch.OutOfMemoryError as error:
        if len(targets) == 1:
            raise OutOfMemoryError(
                f"{model.embedding.weight.device} has no memory for one sequence of "
                f"{len(batch[0].head) + batch[0].longest} tokens",
                "choose --device cpu",
            ) from error
    # The batch's tensors are free only now that the exception is gone.
    torch.cuda.empty_cache()
    rows = [Group(group.head, (tail,)) for group in batch for tail in group.tails]
    half = len(rows) // 2
    parts = ((joined(rows[part]), targets[part]) for part in (slice(half), slice(half, None)))
    return [score for groups, wanted in parts for score in read(model, groups, wanted)]


def joined(rows: list[Group]) -> list[Group]:
    """Return consecutive groups with the same head as one group."""
    found: list[Group] = []
    for group in rows:
        if found and found[-1].head == group.head:
            found[-1] = Group(group.head, (*found[-1].tails, *group.tails))
        else:
            found.append(group)
    return found


def read_at_once(model: GPT, batch: list[Group], targets: list[list[Ids]]) -> list[Score]:
    """Return the scores of `targets` by one forward pass over all tails."""
    tails = [tail for group in batch for tail in group.tails]
    longest = max(map(len, tails))
    cache = read_heads(model, [group.head for group in batch], longest)
    if cache is not None:
        cache.select([row for row, group in enumerate(batch) for _ in group.tails])
    logits = model(padded(tails, model.embedding.weight.device), cache=cache)  # (R, T, V)
    places = [
        (row, place, token) for row, wanted in enumerate(targets) for ids in wanted for place, token in enumerate(ids)
    ]
    rows, columns, tokens = torch.tensor(places, device=logits.device).T  # (M,) each
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    chosen = logits[rows, columns, tokens] - logits.logsumexp(-1)[rows, columns]
    greedy = (logits.argmax(-1)[rows, columns] == tokens).tolist()
    logprobs = chosen.cpu().double()
    if not logprobs.isfinite().all():
        raise overflow_error()
    scores, start = [], 0
    for ids in (ids for wanted in targets for ids in wanted):
        part = slice(start, start + len(ids))
        scores.append(Score(float(logprobs[part].sum()), all(greedy[part]), sum(greedy[part])))
        start += len(ids)
    return scores


def read_heads(model: GPT, heads: list[Ids], still_to_come: int) -> KVCache | None:
    """Return a cache with one row for each head and room for more tokens; None if all heads are empty."""
    if not any(heads):
        return None
    cache, shared = read_shared_prefix(model, heads, max(map(len, heads)) + still_to_come)
    rest = [head[shared:] for head in heads]
    model.last_logits(padded(rest, cache.ids.device), cache, list(map(len, rest)))
    return cache


def padded(rows: list[Ids], device: torch.device) -> Tensor:
    """Return ids (R, T), padded on the right with the id 0, which no output to its left sees."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
