"""What a measurement was made on: hardware and versions, read from the machine. Imports torch for a GPU's name only."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gptcli import __version__
from gptcli.console import size

FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile", "asimd", "sve")
"""Instruction sets that decide how fast matrix products are, as Linux calls them."""
BUSY_LOAD = 0.5


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def conditions(device: str, versions: Mapping[str, str]) -> dict[str, Any]:
    """Everything that a figure depends on besides the code: the command, the date, the machine, the versions.

    `device` is resolved (`cpu`, `cuda:0`); `versions` are those of the peers. `load` is how many processes
    ran on average in the last minute, before this command used the machine: above 0.5 the figures are suspect.
    """
    described = cpu_description() | {
        "cores": available_cores(),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "load": round(os.getloadavg()[0], 2),
    }
    if device.startswith("cuda"):
        import torch

        described["gpu"] = torch.cuda.get_device_name(device)
    return {
        "command": shlex.join(["gptcli", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "machine": described,
        "versions": {
            "gptcli": __version__,
            "python": platform.python_version(),
            "torch": version("torch"),
            **versions,
        },
    }


def cpu_description() -> dict[str, Any]:
    """The processor's name and those of FEATURES that it has; off Linux only what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {"cpu": platform.processor() or platform.machine(), "features": []}
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(f"{values.get('flags', '')} {values.get('Features', '')}".split())
    name = values.get("model name", platform.machine())
    return {"cpu": name, "features": [feature for feature in FEATURES if feature in flags]}


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def machine_line(machine: dict[str, Any]) -> str:
    """The machine in one line for people."""
    parts = [f"{machine['cores']} cores of {machine['cpu']}"]
    if machine["features"]:
        parts.append(" ".join(machine["features"]) + ("" if "amx_tile" in machine["features"] else ", no amx"))
    if "gpu" in machine:
        parts.append(machine["gpu"])
    return ", ".join([*parts, size(machine["memory_bytes"]), machine["system"]])


def versions_line(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())
