"""The rounds of a contender that generates: a batch of prompts, once for one token and once for all. Knows no model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from gptcli.nn.device import peak_memory_bytes, synchronize
from gptcli.report.bench.jobs import DecodingJob
from gptcli.report.bench.worker import Contender

Generate = Callable[[list[list[int]], int], Sequence[Sequence[int]]]
"""(prompts, number of new tokens) -> the new tokens of each prompt."""


def decoding_contender(generate: Generate, job: DecodingJob, **facts: Any) -> Contender:
    """A contender whose round continues a batch of `batch_size` prompts.

    N tokens take N passes over the weights, of which the first reads the prompts as well; `tokens_per_second` counts
    them all. The time to the first token is measured alone. Both are repeated until a round's time is filled.
    """
    device = torch.device(job.device)

    def timed(batch_size: int, count: int) -> tuple[float, list[list[int]]]:
        began = time.perf_counter()
        rows = generate(job.prompts[:batch_size], count)
        synchronize(device)
        seconds = time.perf_counter() - began
        rows = [[int(token) for token in row] for row in rows]
        if [len(row) for row in rows] != [count] * batch_size:
            raise RuntimeError(f"{count} tokens were asked for and {[len(row) for row in rows]} came")
        return seconds, rows

    def play(batch_size: int) -> dict[str, Any]:
        first = whole = 0.0
        repeats = 0
        while whole < job.seconds or not repeats:
            first += timed(batch_size, 1)[0]
            seconds, rows = timed(batch_size, job.new_tokens)
            whole += seconds
            repeats += 1
        return {
            "first_token_seconds": first / repeats,
            "tokens_per_second": repeats * batch_size * job.new_tokens / whole,
            "rows": rows,
            "peak_memory_bytes": peak_memory_bytes(device),
        }

    for size in {1, len(job.prompts)}:
        # What is only done once: caches are taken, kernels chosen, and a compiled step made for its shapes, the second
        # size of the cache being the one that is compiled for all that follow.
        timed(size, 2)
        timed(size, job.new_tokens)
    return Contender(facts, play)
