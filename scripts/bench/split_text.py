"""The text that gptcli trains and validates on, for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptcli.data.config import DataConfig
from gptcli.data.prepare import scan_corpus
from gptcli.data.workspace import Workspace
from gptcli.tokenizer.tokenizer import Tokenizer

VAL_FRACTION = 0.1
SPLIT_SETTINGS = ("data.split=tail", f"data.val_fraction={VAL_FRACTION}")
"""gptcli's settings for this split."""


@dataclass(frozen=True)
class SplitText:
    """A corpus in two parts, each in pieces of bounded size whose concatenation is its text."""

    train: tuple[str, ...]
    val: tuple[str, ...]

    def characters(self) -> dict[str, np.ndarray]:
        """Return both parts, by name, as indices into the sorted characters of the whole corpus: (characters,) each.

        nanoGPT's data/shakespeare_char does the same.
        """
        train, val = (np.frombuffer("".join(part).encode("utf-32-le"), "<u4") for part in (self.train, self.val))
        alphabet = np.union1d(train, val)
        return {"train": np.searchsorted(alphabet, train), "val": np.searchsorted(alphabet, val)}

    def tokens(self, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
        """Return both parts, by name, as the tokenizer's ids: (tokens,) each."""
        return {
            name: np.concatenate(tokenizer.encode_batch(part))
            for name, part in (("train", self.train), ("val", self.val))
        }

    def as_bytes(self) -> tuple[bytes, bytes]:
        """Return (train, val) in UTF-8."""
        return "".join(self.train).encode(), "".join(self.val).encode()


def split_text(corpus: str, cache_dir: Path) -> SplitText:
    """Read the corpus as gptcli does and split off its last tenth.

    Raises:
        DataError, StorageError: it cannot be read.
    """
    config = DataConfig(corpus=(corpus,), split="tail", val_fraction=VAL_FRACTION)
    scan = scan_corpus(config.corpus, Workspace(config, cache_dir))
    return SplitText(tuple(scan.train_texts()), tuple(scan.val_texts()))
