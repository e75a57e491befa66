"""The hardware and the versions that a measurement was made with. Imports torch only for the name of a GPU."""

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
from gptcli.manifest import usable_cores

FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile", "asimd", "sve")
"""Instruction sets that decide how fast matrix products are, as Linux calls them."""
BUSY_LOAD = 0.5


def conditions(device: str, versions: Mapping[str, str], program: str = "gptcli") -> dict[str, Any]:
    """Return what a figure depends on besides the code: the command, the date, the machine, the versions.

    `device` is resolved (`cpu`, `cuda:0`); `versions` are those of other programs. `load` is the average number of
    running processes in the last minute, before this command used the machine: above 0.5 the figures are suspect.
    """
    described = cpu_description() | {
        "cores": usable_cores(),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "load": round(os.getloadavg()[0], 2),
    }
    if device.startswith("cuda"):
        import torch

        described["gpu"] = torch.cuda.get_device_name(device)
    return {
        "command": shlex.join([*program.split(), *sys.argv[1:]]),
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
    """Return the processor's name and those of FEATURES that it has; outside Linux only what Python reports."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {"cpu": platform.processor() or platform.machine(), "features": []}
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(f"{values.get('flags', '')} {values.get('Features', '')}".split())
    name = values.get("model name", platform.machine())
    return {"cpu": name, "features": [feature for feature in FEATURES if feature in flags]}


def memory_bytes() -> int:
    """Return the size of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def machine_line(machine: dict[str, Any]) -> str:
    """Return a description of the machine in one line."""
    parts = [f"{machine['cores']} cores of {machine['cpu']}"]
    if machine["features"]:
        parts.append(" ".join(machine["features"]) + ("" if "amx_tile" in machine["features"] else ", no amx"))
    if "gpu" in machine:
        parts.append(machine["gpu"])
    return ", ".join([*parts, size(machine["memory_bytes"]), machine["system"]])


def versions_line(versions: dict[str, str]) -> str:
    """Return names and versions in one line."""
    return ", ".join(f"{name} {number}" for name, number in versions.items())
