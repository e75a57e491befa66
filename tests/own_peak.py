"""Code for processes that report their own peak memory."""

from __future__ import annotations

PEAK = r"""
import re
def peak():
    '''Return the peak resident memory of this process in KiB.'''
    # getrusage would count the memory of the process that started this one, which hides growth below it.
    with open("/proc/self/status") as status:
        return int(re.search(r"VmHWM:\s*(\d+)", status.read())[1])
"""
