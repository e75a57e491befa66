"""torch.compile as one graph, with errors that name what is missing, and with code kept for the next process."""

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
    """Return the name of the part that torch.compile needs on this device and that is missing; empty if none is."""
    if shutil.which(os.environ.get("CXX") or "g++") is None and shutil.which("clang++") is None:
        return "C++ compiler"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "Triton"
    return ""


def compile_whole(
    function: Callable[Arguments, Result], what: str, remedy: str, cache_dir: Path, **settings: Any
) -> Callable[Arguments, Result]:
    """Return the function, compiled at its first call (and again where it must be); `cache_dir` keeps its code.

    Args:
        what: the name of the function in error messages.
        remedy: how to do without compiling, for error messages.
        settings: further arguments of torch.compile.

    Raises:
        UsageError: when called, if torch cannot compile the function here.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir / "torch"))
    # gptcli's own settings decide whether they are used.
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
    compiled = torch.compile(function, fullgraph=True, **settings)

    def call(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        try:
            return compiled(*arguments, **named)
        except torch._dynamo.exc.TorchDynamoException as error:
            cause = str(error).strip().partition("\n")[0]
            raise UsageError(f"torch could not compile {what}: {cause}", remedy) from error

    return call
