"""Timing of work on a device: wall time on a CPU, events on a CUDA device."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from gptcli.nn.device import seconds_of_call


def stopwatch(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that the device needs for `work`."""
    if device.type == "cuda":
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        milliseconds: float = begin.elapsed_time(end)
        return milliseconds / 1000
    return seconds_of_call(work, device)


def seconds_of(work: Callable[[], object], device: torch.device, at_least: float) -> float:
    """Return the median of as many runs as fill `at_least` seconds (three or more), after one that is not counted."""
    stopwatch(work, device)
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < at_least:
        taken.append(stopwatch(work, device))
    return statistics.median(taken)
