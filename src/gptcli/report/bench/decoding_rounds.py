"""The rounds of a contender that generates: a batch of prompts is continued by one token, and by all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from gptcli.nn.device import peak_memory_bytes, synchronize
from gptcli.report.bench.jobs import DecodingJob
from gptcli.report.bench.worker import Contender

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Data types of weights, by number format."""
Generate = Callable[[list[list[int]], int], Sequence[Sequence[int]]]
"""(prompts, number of new tokens) -> the new tokens of each prompt."""


def decoding_contender(generate: Generate, job: DecodingJob, **facts: Any) -> Contender:
    """Return a contender whose round continues a batch of `batch_size` prompts.

    N tokens take N passes over the weights, of which the first reads the prompts as well; `tokens_per_second` counts
    all N. The time to the first token is measured separately. Both are repeated until the round's time is filled.
    """
    device = torch.device(job.device)

    def timed(batch_size: int, count: int) -> tuple[float, list[list[int]]]:
        began = time.perf_counter()
        generated = generate(job.prompts[:batch_size], count)
        synchronize(device)
        seconds = time.perf_counter() - began
        rows = [[int(token) for token in row] for row in generated]
        if [len(row) for row in rows] != [count] * batch_size:
            raise RuntimeError(f"{[len(row) for row in rows]} tokens were generated instead of {count}")
        return seconds, rows

    def run_round(batch_size: int) -> dict[str, Any]:
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
        # Work that is done once: caches are allocated, kernels chosen, and a compiled step made for its shapes; the
        # compilation for the second size of the cache serves all further sizes.
        timed(size, 2)
        timed(size, job.new_tokens)
    return Contender(facts, run_round)
