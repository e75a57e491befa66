"""The learning rate as a pure function of a run's progress, so that a resumed run needs no recorded state of it."""

from __future__ import annotations

import math

import torch

from gptcli.errors import ConfigError
from gptcli.optim.config import ConstantSchedule, CosineSchedule, Decay, LinearSchedule, ScheduleConfig, WsdSchedule


def lr_factor(config: ScheduleConfig, step: float, max_steps: int, base_lr: float) -> float:
    """Return the factor of every learning rate in step `step` (0 is the first, max_steps - 1 the last).

    A run that a clock ends counts in steps of its first plan, and may be between two of them. Warm-up rises as
    (step + 1) / (warmup_steps + 1). After it the rate falls from `base_lr` to `min_lr`, which it has from `max_steps`
    on. The cosine is nanoGPT's.

    Raises:
        ConfigError: min_lr is above base_lr.
    """
    min_lr = config.min_lr if isinstance(config, Decay) else 0.0
    floor = min_lr / base_lr
    if floor > 1:
        raise ConfigError(f"schedule.min_lr {min_lr:g} is above optim.lr {base_lr:g}", "lower schedule.min_lr")
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    match config:
        case ConstantSchedule():
            return 1.0
        case LinearSchedule():
            part = 1 - progress(step, config.warmup_steps, max_steps)
        case CosineSchedule():
            part = 0.5 * (1 + math.cos(math.pi * progress(step, config.warmup_steps, max_steps)))
        case WsdSchedule():
            start = max(config.warmup_steps, max_steps - round(config.decay_fraction * max_steps))
            part = 1 - progress(step, start, max_steps)
    return floor + part * (1 - floor)


def progress(step: float, start: int, end: int) -> float:
    """Return how far `step` is from `start` (0) to `end` (1); 1 beyond the end."""
    if step >= end:
        return 1.0
    return 0.0 if step <= start else (step - start) / (end - start)


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every parameter group to `factor` times its initial one."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
