"""The failures of a training on many devices, and the interval of checkpoints that suits them."""

from __future__ import annotations

import math
from typing import NamedTuple

RESTART_SECONDS = 600.0
"""Seconds from a failure to the first new step: detection, the start of the ranks, reading the checkpoint."""

ENDLESS = 500
"""Exponent from which on a training would never end."""


class Saving(NamedTuple):
    """The best interval of checkpoints, and its cost."""

    write_seconds: float
    failure_every_seconds: float
    interval: float
    """Seconds of training between two checkpoints."""
    lost: float
    """Part of the time for writing, for repeating steps after failures, and for restarts."""


def plan_saving(checkpoint_bytes: float, bytes_per_second: float, device_hours: float, devices: int) -> Saving:
    """Return the interval that loses least time.

    Training is assumed to wait for the writing; ours continues meanwhile, so this is an upper bound.

    Young 1974 (CACM 17:9) with Daly's higher-order terms (2006, FGCS 22:3): for writes of d seconds and failures every
    M, sqrt(2 d M) (1 + sqrt(d / 2M) / 3 + (d / 2M) / 9) - d while d < 2M, and M beyond.

    Args:
        checkpoint_bytes: the size of a checkpoint.
        bytes_per_second: the rate at which it is written.
        device_hours: mean hours until one device, or something that it depends on, fails.
        devices: the number of devices.
    """
    write, failure = checkpoint_bytes / bytes_per_second, device_hours * 3600 / devices
    half = write / (2 * failure)
    interval = failure if half >= 1 else math.sqrt(2 * write * failure) * (1 + math.sqrt(half) / 3 + half / 9) - write
    return Saving(write, failure, interval, 1 - 1 / stretch(interval, write, failure))


def stretch(interval: float, write: float, failure: float) -> float:
    """Return the expected time of a training as a multiple of its time without failures (Daly 2006, equation 20).

    All arguments are in seconds. Failures occur at random, also while a checkpoint is written or the ranks restart.
    """
    exponent = (interval + write) / failure
    if exponent > ENDLESS:
        return math.inf
    return failure / interval * math.exp(RESTART_SECONDS / failure) * math.expm1(exponent)
