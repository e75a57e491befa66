"""Whether the loss is compiled, and how: as one graph, each batch shape by itself, kept for the next process.

Compiling takes about 25 s, or 4 s where this machine has compiled the same before. What it saves was measured:
docs/benchmarks.md. Compiled and eager losses differ in rounding, so a run keeps to what was decided at its start.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from gptcli.errors import UsageError
from gptcli.models.config import ModelConfig
from gptcli.nn.compiling import compile_whole, missing_compiler
from gptcli.train.plan import Plan
from gptcli.train.step import LossSum

LONG_RUN_SECONDS = {"cpu": 300.0, "cuda": 120.0}
"""An expected time from which on compiling pays for itself (that of CUDA is not yet measured)."""


class CompileChoice(NamedTuple):
    """Whether to compile, and why, for people."""

    wanted: bool
    reason: str


def settle_compile(plan: Plan, step_seconds: float | None) -> Plan:
    """The plan with train.compile true or false, as its run.toml will keep it, and with the reason if it was auto.

    Raises:
        UsageError: true was set, and what torch compiles with is missing.
    """
    seconds = None if step_seconds is None else step_seconds * plan.steps
    train = plan.config.train
    wanted, reason = choose_compile(train.compile, plan.device, plan.config.model, seconds)
    config = plan.config.model_copy(update={"train": train.model_copy(update={"compile": wanted})})
    return replace(plan, config=config, compile_reason=reason)


def choose_compile(
    wanted: bool | Literal["auto"], device: torch.device, model: ModelConfig, run_seconds: float | None
) -> CompileChoice:
    """`wanted`, with auto decided by the seconds that the run is expected to take (none: unknown).

    Raises:
        UsageError: true was set, and what torch compiles with is missing.
    """
    missing = missing_compiler(device)
    if wanted is True and missing:
        raise UsageError(f"train.compile needs {missing}, and there is none", "install it, or set train.compile=false")
    if wanted != "auto":
        return CompileChoice(wanted, "")
    if device.type not in LONG_RUN_SECONDS:
        return CompileChoice(False, f"not tried on {device.type}")
    if missing:
        return CompileChoice(False, f"there is no {missing}")
    if device.type == "cpu" and model.norm != "rmsnorm":
        return CompileChoice(False, "on a CPU it makes models with LayerNorm hardly faster")
    least = LONG_RUN_SECONDS[device.type]
    is_long = run_seconds is not None and run_seconds >= least
    return CompileChoice(is_long, f"it pays on runs of {least / 60:g} minutes or more")


def compiled(loss_sum: LossSum, cache_dir: Path) -> LossSum:
    """The same loss, compiled at its first call, and anew for another shape.

    Raises:
        UsageError, when called: torch cannot compile it here.
    """
    return compile_whole(loss_sum, "the loss", "set train.compile=false", cache_dir, dynamic=False)
