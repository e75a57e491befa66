"""Where the numbers live and how wide they are: devices, precisions, and the memory they took. Knows no model."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from gptcli.errors import UsageError
from gptcli.nn.float8 import require_float8
from gptcli.nn.processor import multiplies_bf16

Precision = Literal["auto", "fp32", "bf16", "fp16", "fp8"]
ResolvedPrecision = Literal["fp32", "bf16", "fp16", "fp8"]

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}
"""fp8: what is around the products that `nn.float8` takes in 8 bits."""


def resolve_device(name: str = "auto") -> torch.device:
    """`auto` (CUDA where there is one, else the CPU), `cpu`, `cuda`, `cuda:N` or `mps` -> a device that is there.

    Raises:
        UsageError: no such device, or this torch cannot use it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device {name!r} is unknown", "use auto, cpu, cuda, cuda:N or mps") from error
    match device.type:
        case "cpu":
            return device
        case "cuda":
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            if count == 0:
                raise UsageError(f"device {name!r}: this torch sees no CUDA device", "use cpu or auto")
            if device.index is not None and device.index >= count:
                raise UsageError(f"device {name!r}: there are {count} CUDA devices", f"the last is cuda:{count - 1}")
            return device
        case "mps":
            if not torch.backends.mps.is_available():
                raise UsageError("device 'mps': this torch sees no Apple GPU", "use cpu or auto")
            return device
        case _:
            raise UsageError(f"device {name!r} is not supported", "use auto, cpu, cuda, cuda:N or mps")


def resolve_precision(device: torch.device, precision: Precision) -> ResolvedPrecision:
    """`auto` is bf16 where the hardware computes in it, on CUDA and on a CPU, and fp32 elsewhere.

    Raises:
        UsageError: fp8, which this device or installation cannot do.
    """
    if precision == "fp8":
        require_float8(device)
    if precision != "auto":
        return precision
    return "bf16" if computes_in_bf16(device) else "fp32"


def computes_in_bf16(device: torch.device) -> bool:
    """Whether bf16 is faster than fp32 here, not merely possible."""
    match device.type:
        case "cuda":
            return torch.cuda.is_bf16_supported(including_emulation=False)
        case "cpu":
            return multiplies_bf16()
        case _:
            return False


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """A context in which matrix products and attention compute in `precision`; weights and sums stay fp32."""
    dtype = AUTOCAST_DTYPES.get(resolve_precision(device, precision))
    return torch.autocast(device.type, dtype=dtype) if dtype else contextlib.nullcontext()


def allow_tf32(allowed: bool) -> None:
    """Let fp32 matrix products on CUDA round their inputs to TF32's 10-bit mantissa (faster), or forbid it."""
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high" if allowed else "highest")


GROUP_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""Files below /sys/fs/cgroup that hold the limit on a container's memory: of version 2 and of version 1."""


def machine_memory_bytes(device: torch.device) -> int:
    """Bytes of memory that there are in all: the GPU's, or the machine's, or what a container may take of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in GROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # there is no such limit
            limits.append(int(Path("/sys/fs/cgroup", name).read_text()))
    return min(limits)


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that this process held so far: tensors on a CUDA device, the whole process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def resident_memory_bytes(device: torch.device) -> int:
    """The part of `peak_memory_bytes` that is not from training: 0 on a CUDA device, else the current memory of the
    process (its peak so far where the system does not report it)."""
    if device.type == "cuda":
        return 0
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_memory_bytes(device)
    return pages * os.sysconf("SC_PAGE_SIZE")


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host's, on the device; a GPU fetches it by itself, and nobody waits for what it does before."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class HostCopy:
    """Tensors on their way to the host. `result` waits for them, and for nothing that the device was given later."""

    def __init__(self, *tensors: Tensor) -> None:
        self.copies = [tensor.to("cpu", non_blocking=tensor.is_cuda) for tensor in tensors]
        self.is_copied = torch.cuda.Event() if any(tensor.is_cuda for tensor in tensors) else None
        if self.is_copied is not None:
            self.is_copied.record()

    def result(self) -> list[Tensor]:
        if self.is_copied is not None:
            self.is_copied.synchronize()
        return self.copies


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given, so that a clock tells the truth."""
    match device.type:
        case "cuda":
            torch.cuda.synchronize(device)
        case "mps":
            torch.mps.synchronize()
