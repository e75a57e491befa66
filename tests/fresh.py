"""Code in an interpreter of its own, to see what importing and running it loads."""

from __future__ import annotations

import subprocess
import sys


def run_fresh(code: str) -> str:
    """What `code` prints in a new interpreter, in which it must not fail."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
