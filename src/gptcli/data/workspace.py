"""The settings that all functions which prepare a corpus share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gptcli.data.config import DataConfig
from gptcli.data.worker_pool import ALL_CORES, WorkerConfig


@dataclass(frozen=True)
class Workspace:
    """The settings of reading and splitting texts, the cache for the results, and the processes that do the work."""

    config: DataConfig
    cache_dir: Path
    seed: int = 0
    """The seed of the split into training and validation documents."""
    workers: WorkerConfig = ALL_CORES
