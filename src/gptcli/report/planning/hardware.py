"""Accelerators by their makers' data sheets, and the argument of `--gpu`, which names one or gives its numbers."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Any

from gptcli.errors import UsageError


@dataclass(frozen=True)
class Accelerator:
    """The numbers of one device."""

    name: str
    flops: float
    """Dense bf16 operations a second at its peak; those of a CPU are fp32."""
    memory: float
    """Bytes of memory, as the data sheet counts them (a GB is 1e9)."""
    bandwidth: float
    """Bytes a second of its memory."""
    link: float
    """Bytes a second to other devices of the host, in each direction."""
    network: float
    """Bytes a second of its share of a usual host's network, in each direction."""
    source: str

    @property
    def is_cpu(self) -> bool:
        """Whether the device is a CPU."""
        return self.name.startswith("cpu")

    def peak_flops(self, precision: str) -> float:
        """Return the peak operations a second of matrix products.

        On a GPU fp32 products run as TF32, half as fast as bf16. fp8 has the peak of bf16.
        """
        return self.flops / 2 if precision == "fp32" and not self.is_cpu else self.flops


@dataclass(frozen=True)
class Machine:
    """A host with `per_host` of a device, one of many."""

    device: Accelerator
    per_host: int = 8

    def hosts(self, devices: int) -> int:
        """Return the hosts that are needed for so many devices."""
        return -(-devices // self.per_host)

    def between(self, count: int, stride: int) -> tuple[str, float]:
        """Return where groups of `count` ranks with a distance of `stride` communicate, and a rank's bytes a second.

        A ring through several hosts uses the network ports of all its ranks in a host.
        """
        if count * stride <= self.per_host:
            return "in the host", self.device.link
        members = max(1, self.per_host // stride)
        return "between hosts", min(self.device.link, members * self.device.network)


ACCELERATORS = {
    accelerator.name: accelerator
    for accelerator in (
        Accelerator("a100", 312e12, 80e9, 2.039e12, 300e9, 25e9, "NVIDIA A100 80GB data sheet (SXM); HDR InfiniBand"),
        Accelerator("h100", 989e12, 80e9, 3.35e12, 450e9, 50e9, "NVIDIA H100 data sheet (SXM); NDR InfiniBand"),
        Accelerator("h200", 989e12, 141e9, 4.8e12, 450e9, 50e9, "NVIDIA H200 data sheet (SXM); NDR InfiniBand"),
        Accelerator("b200", 2250e12, 180e9, 7.7e12, 900e9, 50e9, "NVIDIA HGX B200 data sheet; NDR InfiniBand"),
        Accelerator("l40s", 362e12, 48e9, 864e9, 32e9, 12.5e9, "NVIDIA L40S data sheet; PCIe 4.0 x16, 100 Gb/s"),
        Accelerator("rtx4090", 165e12, 24e9, 1.008e12, 32e9, 1.25e9, "NVIDIA Ada white paper; PCIe 4.0 x16, 10 Gb/s"),
        Accelerator("rtx3090", 71e12, 24e9, 936e9, 32e9, 1.25e9, "NVIDIA GA102 white paper; PCIe 4.0 x16, 10 Gb/s"),
        Accelerator("mi300x", 1307e12, 192e9, 5.3e12, 448e9, 50e9, "AMD Instinct MI300X data sheet; 400 Gb/s"),
        Accelerator("cpu", 0.192e12, 16e9, 40e9, 10e9, 1.25e9, "two cores of 3 GHz with two AVX2 FMA units each"),
    )
}
LARGEST = 1e24
"""The largest number of a device that is accepted."""
NUMBERS = ("flops", "memory", "bandwidth", "link", "network")


def parse_accelerator(text: str) -> Accelerator:
    """Return the device for `h100`, `h100,memory=94e9`, or all five numbers.

    The numbers are written `flops=...,memory=...,bandwidth=...,link=...,network=...`.

    Raises:
        UsageError: there is no such device or number, or one is missing.
    """
    first, *rest = text.lower().replace(" ", "").split(",")
    pairs = rest if "=" not in first else [first, *rest]
    numbers: dict[str, Any] = dict(parse_number(pair) for pair in pairs)
    if "=" in first:
        missing = [name for name in NUMBERS if name not in numbers]
        if missing:
            raise UsageError(f"--gpu {text} lacks {', '.join(missing)}", "add them, or put a device's name first")
        return Accelerator("own", source="--gpu", **numbers)
    name = first.replace("-", "").replace("_", "")
    if name not in ACCELERATORS:
        close = difflib.get_close_matches(name, ACCELERATORS, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"known are {', '.join(ACCELERATORS)}"
        raise UsageError(f"--gpu {first!r} is unknown", f"{remedy}; or give its numbers: {example()}")
    return replace(ACCELERATORS[name], **numbers)


def parse_number(pair: str) -> tuple[str, float]:
    """Return the name and the value of `name=value`.

    Raises:
        UsageError: it is not a number of a device.
    """
    name, _, value = pair.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if name not in NUMBERS or not 1 <= number <= LARGEST:
        raise UsageError(f"--gpu: {pair!r} is not a number of a device", f"write them as in {example()}")
    return name, number


def example() -> str:
    """Return the numbers of the H100 as `--gpu` reads them."""
    h100 = ACCELERATORS["h100"]
    return ",".join(f"{name}={getattr(h100, name):g}" for name in NUMBERS)
