"""The default location of the cache."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache_dir() -> Path:
    """Return $XDG_CACHE_HOME/gptcli, or ~/.cache/gptcli."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gptcli"
