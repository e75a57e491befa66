"""Properties of the processor that decide between two ways to the same numbers.

They come from the processor's description and never from a trial, so that a run computes the same every time.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch


@cache
def is_amd() -> bool:
    """Return whether AMD made the processor: MKL, torch's library for fp32 matmuls, then leaves AVX-512 unused."""
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def mkl_is_slow() -> bool:
    """Return whether oneDNN multiplies large fp32 matrices much faster than MKL (on Zen 5, 2.0 to 2.2 times)."""
    return is_amd() and torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_supported()


@cache
def multiplies_bf16() -> bool:
    """Return whether the processor multiplies bf16 matrices at least twice as fast as fp32 ones (AMX, AVX512_BF16).

    Without these instructions oneDNN converts every number to fp32 and back, several times slower than with fp32.
    """
    instructions = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # torch has no public names for them
    return torch.backends.mkldnn.is_available() and any(getattr(torch.cpu, name, bool)() for name in instructions)
