"""`gptcli bench limits`: the machine's rates of matrix products, by number format and threads, and of memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gptcli.console import Progress
from gptcli.report.bench.comparison import alternate, spread
from gptcli.report.bench.jobs import LIMIT, LimitsJob, Task
from gptcli.report.bench.options import BenchOptions
from gptcli.report.bench.report import Outcome
from gptcli.report.bench.tables import Table, figure
from gptcli.report.bench.workers import rounds, started

DTYPES = ("fp32", "bf16", "fp16", "int8")
GPT2_ROWS = 512
GPT2 = {
    "GPT-2 attention in": (GPT2_ROWS, 768, 2304),
    "GPT-2 attention out": (GPT2_ROWS, 768, 768),
    "GPT-2 MLP up": (GPT2_ROWS, 768, 3072),
    "GPT-2 MLP down": (GPT2_ROWS, 3072, 768),
    "GPT-2 head": (GPT2_ROWS, 768, 50257),
}
"""Rows, inputs and outputs of GPT-2's products for a batch of 2 x 256 tokens."""
STREAMS = {
    "gemv": "weights streamed: a vector times 1 GB of matrices",
    "sum": "memory read: the sum of the same",
    "copy": "memory copied, bytes read and written",
}


def measure(options: BenchOptions) -> Outcome:
    """Measure every figure once a round, in turn."""
    job = LimitsJob(options.device, options.seconds)
    with started({LIMIT.name: Task(LIMIT, "limits", job)}, options.threads) as workers:
        worker = workers[LIMIT.name]
        figures = dict(all_figures(worker.facts["square"], options.threads))
        requests = {name: rounds(worker, **request) for name, request in figures.items()}
        with Progress("limits", options.rounds, unit="rounds") as progress:
            measured = alternate(requests, options.rounds, lambda _: progress.update())
    results = {"figures": [figures[name] | summary(values) for name, values in measured.items()]}
    return Outcome("limits", results, tables(results))


def all_figures(square: int, threads: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each figure and the request for it."""
    for dtype in DTYPES:
        for count in thread_counts(threads):
            request = {"what": "gemm", "dtype": dtype, "threads": count, "shape": [square] * 3}
            yield f"{dtype} {count}", request
        for name, shape in GPT2.items():
            yield f"{dtype} {name}", {"what": "gemm", "dtype": dtype, "threads": threads, "shape": list(shape)}
    for what in STREAMS:
        for count in thread_counts(threads):
            yield f"{what} {count}", {"what": what, "threads": count}


def thread_counts(threads: int) -> list[int]:
    """Return 1, 2, 4, ... and the number itself."""
    powers = [1 << i for i in range(threads.bit_length()) if 1 << i < threads]
    return [*powers, threads]


def summary(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Return `rate`, in operations or bytes a second over the rounds, or `unavailable`, why there is no rate."""
    missing = next((one["unavailable"] for one in measured if "unavailable" in one), None)
    return {"unavailable": missing} if missing else {"rate": spread([one["rate"] for one in measured]).report()}


def tables(results: dict[str, Any]) -> list[Table]:
    """Return a table of matrix products and one of memory."""
    gemm = [figure for figure in results["figures"] if figure["what"] == "gemm"]
    streams = [figure for figure in results["figures"] if figure["what"] != "gemm"]
    return [gemm_table(gemm), stream_table(streams)]


def gemm_table(figures: list[dict[str, Any]]) -> Table:
    """Return a table with a row for each shape and number of threads and a column for each number format."""
    cells = {(row_name(one), one["dtype"]): giga(one) for one in figures}
    names = list(dict.fromkeys(name for name, _ in cells))
    rows = [(name, *(cells[name, dtype] for dtype in DTYPES)) for name in names]
    missing = {one["dtype"]: one["unavailable"] for one in figures if "unavailable" in one}
    notes = ["The best of the rounds.", *(f"{dtype}: torch says {reason!r}." for dtype, reason in missing.items())]
    return Table("Matrix products, GFLOP/s (int8: Gop/s)", ("M x K x N", *DTYPES), rows, notes)


def row_name(one: dict[str, Any]) -> str:
    """Return the name, the shape and the threads of a matrix product."""
    names = {tuple(shape): f"{name}, " for name, shape in GPT2.items()}
    shape = " x ".join(map(str, one["shape"]))
    return f"{names.get(tuple(one['shape']), '')}{shape}, {thread_words(one['threads'])}"


def stream_table(figures: list[dict[str, Any]]) -> Table:
    """Return a table with a row for each use of memory and a column for each number of threads."""
    counts = sorted({one["threads"] for one in figures})
    cells = {(one["what"], one["threads"]): giga(one) for one in figures}
    rows = [(name, *(cells[what, count] for count in counts)) for what, name in STREAMS.items()]
    return Table("Memory, GB/s", ("", *map(thread_words, counts)), rows, ["The best of the rounds, as above."])


def thread_words(count: int) -> str:
    """Return `1 thread`, `2 threads`."""
    return f"{count} thread{'s' * (count > 1)}"


def giga(one: dict[str, Any]) -> str:
    """Return the best of the rounds, in units of 10^9, since a limit is what can be reached; a dash if unavailable."""
    return figure(one["rate"]["high"] / 1e9) if "rate" in one else "-"
