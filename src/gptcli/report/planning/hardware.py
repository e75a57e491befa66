"""Accelerators by their makers' data sheets, and `--gpu`, which names one or gives numbers of one's own."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

from gptcli.errors import UsageError


@dataclass(frozen=True)
class Accelerator:
    """One device.

    flops: dense bf16 operations a second at its peak (on the CPU fp32).
    memory: bytes, as the data sheet counts them (a GB is 1e9).
    bandwidth: of its memory, bytes a second.
    link: to its neighbours in the host, bytes a second in each direction.
    network: its share of a usual host's network, bytes a second in each direction.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    link: float
    network: float
    source: str

    @property
    def is_cpu(self) -> bool:
        return self.name.startswith("cpu")

    def peak_flops(self, precision: str) -> float:
        """Of matrix products; fp32 ones run as TF32 on a GPU, half as fast as bf16. fp8 is measured against bf16."""
        return self.flops / 2 if precision == "fp32" and not self.is_cpu else self.flops


@dataclass(frozen=True)
class Machine:
    """A host with `per_host` of a device, one of many."""

    device: Accelerator
    per_host: int = 8

    def hosts(self, devices: int) -> int:
        """How many are needed for so many devices."""
        return -(-devices // self.per_host)

    def between(self, count: int, stride: int) -> tuple[str, float]:
        """Where groups of `count` ranks that lie `stride` apart talk, and each rank's bytes a second there.

        A ring through several hosts takes the network ports of all its ranks in a host.
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
"""The largest of a device's numbers that is taken for one."""
NUMBERS = ("flops", "memory", "bandwidth", "link", "network")


def parse_accelerator(text: str) -> Accelerator:
    """`h100`, `h100,memory=94e9`, or all five numbers `flops=...,memory=...,bandwidth=...,link=...,network=...`.

    Raises:
        UsageError: there is no such device or number, or one is missing.
    """
    first, *rest = text.lower().replace(" ", "").split(",")
    pairs = rest if "=" not in first else [first, *rest]
    numbers = dict(parse_number(pair) for pair in pairs)
    if "=" in first:
        missing = [name for name in NUMBERS if name not in numbers]
        if missing:
            raise UsageError(f"--gpu {text} lacks {', '.join(missing)}", "add them, or begin with a device's name")
        return Accelerator("own", source="--gpu", **numbers)
    name = first.replace("-", "").replace("_", "")
    if name not in ACCELERATORS:
        close = difflib.get_close_matches(name, ACCELERATORS, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"known are {', '.join(ACCELERATORS)}"
        raise UsageError(f"--gpu {first!r} is unknown", f"{remedy}; or give its numbers: {example()}")
    return replace(ACCELERATORS[name], **numbers)


def parse_number(pair: str) -> tuple[str, float]:
    name, _, value = pair.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if name not in NUMBERS or not 1 <= number <= LARGEST:
        raise UsageError(f"--gpu: {pair!r} is not a number of a device", f"write them as in {example()}")
    return name, number


def example() -> str:
    """The H100 as its own numbers."""
    h100 = ACCELERATORS["h100"]
    return ",".join(f"{name}={getattr(h100, name):g}" for name in NUMBERS)
