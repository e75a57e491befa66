"""torch.compile as gptcli uses it: as one graph, with what it lacks named, and its code kept for the next process."""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from gptcli.errors import UsageError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def missing_compiler(device: torch.device) -> str:
    """What torch.compile needs on this device and does not find; empty: nothing."""
    if shutil.which(os.environ.get("CXX") or "g++") is None and shutil.which("clang++") is None:
        return "C++ compiler"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "Triton"
    return ""


def compile_whole(
    function: Callable[Arguments, Result], what: str, remedy: str, cache_dir: Path, **settings: Any
) -> Callable[Arguments, Result]:
    """The same function, compiled at its first call (and anew where it must be); its code is kept in `cache_dir`.

    Args:
        what, remedy: for the message: what is compiled, and how to do without.
        settings: torch.compile's.

    Raises:
        UsageError, when called: torch cannot compile it here.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir / "torch"))
    # Whether they are used is ours to decide.
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
    compiled = torch.compile(function, fullgraph=True, **settings)

    def call(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        try:
            return compiled(*arguments, **named)
        except torch._dynamo.exc.TorchDynamoException as error:
            cause = str(error).strip().partition("\n")[0]
            raise UsageError(f"torch could not compile {what}: {cause}", remedy) from error

    return call
