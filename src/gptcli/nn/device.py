"""Devices, precisions, and the memory that is there and in use."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
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
"""The dtype of autocast; for fp8, of everything around the matmuls that `nn.float8` does in 8 bits."""


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device named `auto` (CUDA if available, else the CPU), `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises:
        UsageError: there is no such device, or this torch cannot use it.
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
    """Return the precision that is meant: `auto` is bf16 where the hardware is fast at it, and fp32 elsewhere.

    Raises:
        UsageError: the precision is fp8, and this device or installation cannot compute in it.
    """
    if precision == "fp8":
        require_float8(device)
    if precision != "auto":
        return precision
    return "bf16" if computes_in_bf16(device) else "fp32"


def computes_in_bf16(device: torch.device) -> bool:
    """Return whether bf16 is faster than fp32 on this device, not merely possible."""
    match device.type:
        case "cuda":
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
        case "cpu":
            return multiplies_bf16()
        case _:
            return False


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """Return a context in which matmuls and attention are in `precision`; weights and sums stay fp32."""
    dtype = AUTOCAST_DTYPES.get(resolve_precision(device, precision))
    return torch.autocast(device.type, dtype=dtype) if dtype else contextlib.nullcontext()


def allow_tf32(allowed: bool) -> None:
    """Allow or forbid fp32 matmuls on CUDA to round their inputs to TF32's 10-bit mantissa, which is faster."""
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high" if allowed else "highest")


GROUP_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""Files below /sys/fs/cgroup with the limit on a container's memory, in version 2 and in version 1."""


def machine_memory_bytes(device: torch.device) -> int:
    """Return the bytes of memory in all: the GPU's, the machine's, or the container's limit."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in GROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # there is no such limit
            limits.append(int(Path("/sys/fs/cgroup", name).read_text()))
    return min(limits)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory of this process so far: tensors on a CUDA device, the whole process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # On Linux getrusage counts the memory of the process that started this one as well.
    with contextlib.suppress(OSError), Path("/proc/self/status").open() as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, others KiB


def resident_memory_bytes(device: torch.device) -> int:
    """Return the memory before training that `peak_memory_bytes` includes: 0 on a CUDA device, else the current memory
    of the process (its peak so far where the system does not report it).
    """
    if device.type == "cuda":
        return 0
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_memory_bytes(device)
    return pages * os.sysconf("SC_PAGE_SIZE")


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to the device; with a GPU the host does not wait for its earlier work."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class HostCopy:
    """Tensors that are being copied to the host. `result` waits for them, but for no later work of the device."""

    def __init__(self, *tensors: Tensor) -> None:
        self.copies = [tensor.to("cpu", non_blocking=tensor.is_cuda) for tensor in tensors]
        self.is_copied = torch.cuda.Event() if any(tensor.is_cuda for tensor in tensors) else None
        if self.is_copied is not None:
            self.is_copied.record()

    def result(self) -> list[Tensor]:
        """Wait for the copies and return them."""
        if self.is_copied is not None:
            self.is_copied.synchronize()
        return self.copies


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work, so that a clock measures all of it."""
    match device.type:
        case "cuda":
            torch.cuda.synchronize(device)
        case "mps":
            torch.mps.synchronize()


def seconds_of_call(work: Callable[[], object], device: torch.device) -> float:
    """Call `work` and return the seconds until the device has finished it."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began
