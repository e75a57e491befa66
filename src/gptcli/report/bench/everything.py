"""`gptcli bench`: all benches, in sizes that take a few minutes in all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from gptcli.report.bench import decoding, encoding, limits, training
from gptcli.report.bench.options import BenchOptions
from gptcli.report.bench.report import Outcome

Bench = Callable[[BenchOptions], Outcome]

SECONDS = {"limits": 0.05, "train": 2.0, "generate": 1.0, "data": 0.5}
"""Duration of a round of each bench."""
TRAINING = training.TrainingRequest()
DECODING = decoding.DecodingRequest(new_tokens=24)
ENCODING = encoding.EncodingRequest(megabytes=2.0)


def everything() -> list[Bench]:
    """Return the benches in order, each with rounds of its duration."""
    benches: dict[str, Bench] = {
        "limits": limits.measure,
        "train": partial(training.measure, TRAINING),
        "generate": partial(decoding.measure, DECODING),
        "data": partial(encoding.measure, ENCODING),
    }
    return [partial(with_seconds, bench, SECONDS[name]) for name, bench in benches.items()]


def with_seconds(bench: Bench, seconds: float, options: BenchOptions) -> Outcome:
    """Run a bench with rounds of so many seconds."""
    return bench(replace(options, seconds=seconds))
