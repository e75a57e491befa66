"""Whether the loss is compiled, and how: as one graph, each batch shape by itself, kept for the next process.

Compiling takes about 25 s, or 4 s where this machine has compiled the same before. What it saves was measured:
docs/benchmarks.md. Compiled and eager losses differ in rounding, so a run keeps to what was decided at its start.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from gptcli.errors import UsageError
from gptcli.models.config import ModelConfig
from gptcli.nn.compiling import compile_whole, missing_compiler
from gptcli.parallel.strategy import LossSum


class Compilation(NamedTuple):
    """What it takes to compile a run's steps, and what it gives."""

    least_run: float
    """Expected seconds of training from which on it pays for itself."""
    seconds: float
    """Until the first step, about."""
    gain: float
    """How many times faster steps are, about."""


COMPILATION = {"cpu": Compilation(180.0, 30.0, 1.35), "cuda": Compilation(120.0, 30.0, 1.35)}
"""On a CPU as measured (docs/benchmarks.md); on CUDA only the seconds are, of GPT-2's 124M on an H200."""


class CompileChoice(NamedTuple):
    """Whether to compile, and why, for people."""

    wanted: bool
    reason: str


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
    """What compiling would take and give, for runs that are long enough; none where they are never compiled."""
    if not choose_compile(wanted, device, model, math.inf).wanted or device.type not in COMPILATION:
        return None
    compilation = COMPILATION[device.type]
    return compilation._replace(least_run=0.0) if wanted is True else compilation


def compiled(loss_sum: LossSum, cache_dir: Path) -> LossSum:
    """The same loss, compiled at its first call, and anew for another shape.

    Raises:
        UsageError, when called: torch cannot compile it here.
    """
    return compile_whole(loss_sum, "the loss", "set train.compile=false", cache_dir, dynamic=False)
