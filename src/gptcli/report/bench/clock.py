"""How long a piece of work takes on a device: wall time on a CPU, events on a CUDA device. Knows no contender."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from gptcli.nn.device import synchronize


def stopwatch(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that the device needs for `work`."""
    if device.type == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def seconds_of(work: Callable[[], object], device: torch.device, at_least: float) -> float:
    """The median over as many runs as fill `at_least` seconds (and three at least), after one that does not count."""
    stopwatch(work, device)
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < at_least:
        taken.append(stopwatch(work, device))
    return statistics.median(taken)
