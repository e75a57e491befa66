"""How often a training of many devices fails, and how often it should save for that."""

from __future__ import annotations

import math
from typing import NamedTuple

RESTART_SECONDS = 600.0
"""From a failure to the first new step: noticing it, starting the ranks, reading the checkpoint."""


class Saving(NamedTuple):
    """The best rhythm of checkpoints.

    interval: seconds of training between two of them.
    lost: part of the time that goes to writing, to what is done again after failures, and to starting anew.
    """

    write_seconds: float
    failure_every_seconds: float
    interval: float
    lost: float


def plan_saving(checkpoint_bytes: float, bytes_per_second: float, device_hours: float, devices: int) -> Saving:
    """The interval that loses least, if training waits for the writing (ours goes on meanwhile: so this is the most).

    Young 1974 (CACM 17:9) with Daly's higher-order terms (2006, FGCS 22:3): for writes of d seconds and failures every
    M, sqrt(2 d M) (1 + sqrt(d / 2M) / 3 + (d / 2M) / 9) - d while d < 2M, and M beyond.

    Args:
        device_hours: mean hours until one device, or what it hangs on, fails.
    """
    write, failure = checkpoint_bytes / bytes_per_second, device_hours * 3600 / devices
    half = write / (2 * failure)
    interval = failure if half >= 1 else math.sqrt(2 * write * failure) * (1 + math.sqrt(half) / 3 + half / 9) - write
    return Saving(write, failure, interval, 1 - 1 / stretch(interval, write, failure))


def stretch(interval: float, write: float, failure: float) -> float:
    """How many times longer than by itself a training is expected to take (Daly 2006, equation 20), all in seconds.

    Failures come at random, also while a checkpoint is written or the ranks start anew.
    """
    exponent = (interval + write) / failure
    if exponent > 500:  # it would never end
        return math.inf
    return failure / interval * math.exp(RESTART_SECONDS / failure) * math.expm1(exponent)
