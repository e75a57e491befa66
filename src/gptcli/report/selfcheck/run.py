"""The checks, and the devices that they are made on."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from gptcli.console import Progress
from gptcli.errors import UsageError, first_line
from gptcli.nn.device import allow_tf32, resolve_device
from gptcli.report.bench.machine import conditions
from gptcli.report.selfcheck import files, numbers
from gptcli.report.selfcheck.results import CheckResult, Measurement, SelfCheck, Status


class Check(NamedTuple):
    """One check: `measure` takes a device and an empty folder, and returns a difference and its limit."""

    name: str
    claim: str
    measure: Callable[[torch.device, Path], Measurement]
    devices: tuple[str, ...] = ("cpu", "cuda", "mps")


CHECKS = (
    Check("fp64", "loss and gradient in fp32 agree with fp64", numbers.fp64),
    Check("accumulation", "one batch of eight has the gradient of eight batches of one", numbers.whole_and_parts),
    Check("attention", "the fused kernels agree with the plain formula", numbers.attention),
    Check("cache", "tokens read one by one have the logits of the whole text", numbers.cache),
    # On a GPU a product of other shape is rounded in another way, which may tip a draw.
    Check("batches", "a sample is the same alone and among others", numbers.batches, ("cpu",)),
    Check("threads", "one thread agrees with all, and all repeat themselves", numbers.threads, ("cpu",)),
    Check("bf16", "a gradient in bf16 is near that in fp32", numbers.bf16, ("cpu", "cuda")),
    Check("compile", "a compiled model agrees with the plain one", numbers.compilation, ("cpu", "cuda")),
    Check("save", "weights and moments are the same after saving and loading", files.saving),
    Check("resume", "a killed and resumed training is the same as an undisturbed one", files.resuming),
)
"""Every check, the cheap ones first."""


def present_devices() -> list[torch.device]:
    """Return the CPU, and CUDA and MPS where they are there."""
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda"))
    if torch.backends.mps.is_available():
        devices.append(torch.device("mps"))
    return devices


def self_check(device: str = "auto", checks: Sequence[Check] = CHECKS) -> SelfCheck:
    """Make the checks on a device, with `auto` on every one that is there.

    Raises:
        UsageError: there is no such device.
    """
    devices = present_devices() if device == "auto" else [resolve_device(device)]
    allow_tf32(False)
    planned = [(check, one) for one in devices for check in checks if one.type in check.devices]
    results = []
    with Progress("selfcheck", len(planned), unit="checks") as progress:
        for check, one in planned:
            results.append(result_of(check, one))
            progress.update(1)
    return SelfCheck(tuple(results), conditions(str(devices[-1]), {}))


def result_of(check: Check, device: torch.device) -> CheckResult:
    """Make one check. Whatever it raises is its result: the other checks are still made."""
    began = time.perf_counter()
    measurement, reason = None, ""
    status: Status
    try:
        with tempfile.TemporaryDirectory(prefix="gptcli-") as folder:
            measurement = check.measure(device, Path(folder))
        status = "ok" if measurement.difference <= measurement.limit else "failed"
    except UsageError as error:  # a part is missing here, such as a compiler
        status, reason = "skipped", error.message
    except Exception as error:
        status, reason = "failed", f"{type(error).__name__}: {first_line(error)}"
    seconds = time.perf_counter() - began
    return CheckResult(check.name, str(device), check.claim, status, seconds, measurement, reason)
