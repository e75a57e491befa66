"""The decision whether to compile the loss, and its compilation: one graph per batch shape, cached for later processes.

Compiling takes about 25 s, or 4 s where this machine has compiled the same before; docs/benchmarks.md has what it
saves. Compiled and eager losses differ in rounding, so a run keeps the decision of its start.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from gptcli.errors import UsageError
from gptcli.models.config import ModelConfig
from gptcli.nn.compiling import compile_whole, missing_compiler
from gptcli.objective.objective import LossFunction


class Compilation(NamedTuple):
    """The cost of compiling a run's steps, and its gain."""

    least_run: float
    """The expected seconds of training above which it pays for itself."""
    seconds: float
    """The approximate seconds until the first step."""
    gain: float
    """The approximate speedup of a step."""


COMPILATION = {"cpu": Compilation(180.0, 30.0, 1.35), "cuda": Compilation(120.0, 30.0, 1.35)}
"""Measured on a CPU (docs/benchmarks.md); on CUDA only the seconds are measured, with GPT-2 124M on an H200."""


class CompileChoice(NamedTuple):
    """The decision whether to compile, and its reason in words."""

    wanted: bool
    reason: str


def choose_compile(
    wanted: bool | Literal["auto"], device: torch.device, model: ModelConfig, run_seconds: float | None
) -> CompileChoice:
    """Return `wanted`, with auto decided by the expected seconds of the run (None: unknown).

    Raises:
        UsageError: true was set, and the compiler that torch needs is missing.
    """
    missing = missing_compiler(device)
    if wanted is True and missing:
        raise UsageError(f"train.compile needs {missing}, and there is none", "install it, or set train.compile=false")
    if wanted != "auto":
        return CompileChoice(wanted, "")
    if device.type not in COMPILATION:
        return CompileChoice(False, f"not tried on {device.type}")
    if missing:
        return CompileChoice(False, f"there is no {missing}")
    if device.type == "cpu" and model.norm != "rmsnorm":
        return CompileChoice(False, "on a CPU it makes models with LayerNorm hardly faster")
    least = COMPILATION[device.type].least_run
    is_long = run_seconds is not None and run_seconds >= least
    return CompileChoice(is_long, f"it pays on runs of {least / 60:g} minutes or more")


def possible_compilation(
    wanted: bool | Literal["auto"], device: torch.device, model: ModelConfig
) -> Compilation | None:
    """Return the cost and gain of compiling long runs; None where runs are never compiled."""
    if not choose_compile(wanted, device, model, math.inf).wanted or device.type not in COMPILATION:
        return None
    compilation = COMPILATION[device.type]
    return compilation._replace(least_run=0.0) if wanted is True else compilation


def compiled(loss_function: LossFunction, cache_dir: Path) -> LossFunction:
    """Return the same loss, compiled at its first call and again for each new shape.

    Raises:
        UsageError, when called: torch cannot compile it here.
    """
    return compile_whole(loss_function, "the loss", "set train.compile=false", cache_dir, dynamic=False)
