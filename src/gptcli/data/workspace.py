"""The settings that all functions which prepare a corpus share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gptcli.data.config import DataConfig
from gptcli.data.worker_pool import ALL_CORES, WorkerConfig
from gptcli.tokenizer.tokenizer import Tokenizer


class ExampleModel(NamedTuple):
    """The properties of a model on which the tokens of its examples depend."""

    tokenizer: Tokenizer
    seq_len: int
    """The tokens of a sequence that the model is trained on."""


@dataclass(frozen=True)
class Workspace:
    """The settings of reading and splitting texts, the cache for the results, and the processes that do the work."""

    config: DataConfig
    cache_dir: Path
    seed: int = 0
    """The seed of the split into training and validation documents."""
    workers: WorkerConfig = ALL_CORES
    model: ExampleModel | None = None
    """The model that learns the corpus, if it is one of examples and the model is known."""
