"""`gptcli bench limits`: how fast this machine multiplies matrices, by number format and threads, and reads memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gptcli.console import Progress
from gptcli.report.bench.contest import alternate, spread
from gptcli.report.bench.crew import LIMIT, crew, rounds
from gptcli.report.bench.jobs import LimitsJob, Task
from gptcli.report.bench.publish import Outcome
from gptcli.report.bench.setting import Setting
from gptcli.report.bench.tables import Table, figure

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


def measure(setting: Setting) -> Outcome:
    """Every figure once a round, in turn."""
    job = LimitsJob(setting.device, setting.seconds)
    with crew({LIMIT: Task("limit", "limits", job)}, setting.threads) as workers:
        worker = workers[LIMIT]
        figures = dict(all_figures(worker.facts["square"], setting.threads))
        players = {name: rounds(worker, **request) for name, request in figures.items()}
        with Progress("limits", setting.rounds, unit="rounds") as progress:
            played = alternate(players, setting.rounds, lambda _: progress.update())
    results = {"figures": [figures[name] | summed_up(plays) for name, plays in played.items()]}
    return Outcome("limits", results, tables(results))


def all_figures(square: int, threads: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of each figure and the request for it."""
    for dtype in DTYPES:
        for count in thread_counts(threads):
            shape = [square] * 3
            yield f"{dtype} {count}", {"what": "gemm", "dtype": dtype, "threads": count, "shape": shape}
        for name, shape in GPT2.items():
            yield f"{dtype} {name}", {"what": "gemm", "dtype": dtype, "threads": threads, "shape": list(shape)}
    for what in STREAMS:
        for count in thread_counts(threads):
            yield f"{what} {count}", {"what": what, "threads": count}


def thread_counts(threads: int) -> list[int]:
    """1, 2, 4, ... and the number itself."""
    powers = [1 << i for i in range(threads.bit_length()) if 1 << i < threads]
    return [*powers, threads]


def summed_up(plays: list[dict[str, Any]]) -> dict[str, Any]:
    """`rate` in operations or bytes a second over the rounds, or why there is none."""
    missing = next((play["unavailable"] for play in plays if "unavailable" in play), None)
    return {"unavailable": missing} if missing else {"rate": spread([play["rate"] for play in plays]).report()}


def tables(results: dict[str, Any]) -> list[Table]:
    gemm = [figure for figure in results["figures"] if figure["what"] == "gemm"]
    streams = [figure for figure in results["figures"] if figure["what"] != "gemm"]
    return [gemm_table(gemm), stream_table(streams)]


def gemm_table(figures: list[dict[str, Any]]) -> Table:
    """A row for every shape and number of threads, a column for every number format."""
    cells = {(row_name(one), one["dtype"]): giga(one) for one in figures}
    names = list(dict.fromkeys(name for name, _ in cells))
    rows = [(name, *(cells[name, dtype] for dtype in DTYPES)) for name in names]
    missing = {one["dtype"]: one["unavailable"] for one in figures if "unavailable" in one}
    notes = ["The best of the rounds.", *(f"{dtype}: torch says {reason!r}." for dtype, reason in missing.items())]
    return Table("Matrix products, GFLOP/s (int8: Gop/s)", ("M x K x N", *DTYPES), rows, notes)


def row_name(one: dict[str, Any]) -> str:
    names = {tuple(shape): f"{name}, " for name, shape in GPT2.items()}
    shape = " x ".join(map(str, one["shape"]))
    return f"{names.get(tuple(one['shape']), '')}{shape}, {thread_words(one['threads'])}"


def stream_table(figures: list[dict[str, Any]]) -> Table:
    counts = sorted({one["threads"] for one in figures})
    cells = {(one["what"], one["threads"]): giga(one) for one in figures}
    rows = [(name, *(cells[what, count] for count in counts)) for what, name in STREAMS.items()]
    return Table("Memory, GB/s", ("", *map(thread_words, counts)), rows, ["The best of the rounds, as above."])


def thread_words(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def giga(one: dict[str, Any]) -> str:
    """The best of the rounds, since a limit is what can be reached; a dash where there is none."""
    return figure(one["rate"]["high"] / 1e9) if "rate" in one else "-"
