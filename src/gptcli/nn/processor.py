"""What the processor is good at, as far as a choice between two ways to the same numbers depends on it.

By what the processor says of itself and never by a trial, so that a run computes the same every time.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch


@cache
def is_amd() -> bool:
    """Whether AMD made it: MKL, torch's library for fp32 products, then leaves AVX-512 unused, and oneDNN does not."""
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def mkl_is_slow() -> bool:
    """Whether oneDNN multiplies large fp32 matrices much faster than MKL: 2.0 to 2.2 times on Zen 5, measured."""
    return is_amd() and torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_supported()


@cache
def multiplies_bf16() -> bool:
    """Whether it multiplies bf16 matrices at least twice as fast as fp32 ones (AMX, AVX512_BF16).

    Where it does not, oneDNN turns every number into fp32 and back, and is several times slower than with fp32.
    """
    instructions = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # torch has no public names for them
    return torch.backends.mkldnn.is_available() and any(getattr(torch.cpu, name, bool)() for name in instructions)
