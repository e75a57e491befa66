"""Whether the loss is compiled, and how: as one graph, each batch shape by itself, kept for the next process.

Compiling takes about 25 s, or 4 s where this machine has compiled the same before. What it saves was measured:
docs/benchmarks.md. Compiled and eager losses differ in rounding, so a run keeps to what was decided at its start.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from gptcli.errors import UsageError
from gptcli.models.config import ModelConfig
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
    if run_seconds is None or run_seconds < least:
        return CompileChoice(False, f"it pays on runs of {least / 60:g} minutes or more")
    return CompileChoice(True, f"it pays on runs of {least / 60:g} minutes or more")


def missing_compiler(device: torch.device) -> str:
    """What torch.compile needs on this device and does not find; empty: nothing."""
    if shutil.which(os.environ.get("CXX") or "g++") is None and shutil.which("clang++") is None:
        return "C++ compiler"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "Triton"
    return ""


def compiled(loss_sum: LossSum, cache_dir: Path) -> LossSum:
    """The same loss, compiled at its first call (and anew for another shape); compiled code is kept in `cache_dir`.

    Raises:
        UsageError, when called: torch cannot compile it here.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir / "torch"))
    function = torch.compile(loss_sum, fullgraph=True, dynamic=False)

    def call(*arguments: torch.Tensor | None) -> torch.Tensor:
        try:
            return function(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            cause = str(error).strip().partition("\n")[0]
            raise UsageError(f"torch could not compile the loss: {cause}", "set train.compile=false") from error

    return call
