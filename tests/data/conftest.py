"""Small corpora and splits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gptcli.data.shards import ShardWriter, TokenShards
from gptcli.tokenizer.framing import DocumentFraming

WriteShards = Callable[..., TokenShards]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache that is empty at first."""
    return tmp_path / "cache"


@pytest.fixture
def write_shards(tmp_path: Path) -> WriteShards:
    """write_shards(documents, vocab_size=, eos_id=, end_id=, shard_bytes=, name=): documents are lists of ids."""

    def write(
        documents: list[list[int]],
        vocab_size: int = 300,
        eos_id: int | None = 256,
        end_id: int | None = None,
        shard_bytes: int = 64,
        name: str = "split",
    ) -> TokenShards:
        framing = DocumentFraming(eos_id, end_id)
        with ShardWriter(tmp_path / name, vocab_size, framing, "tokenizer", shard_bytes) as writer:
            for ids in documents:
                writer.add(np.array(ids, dtype=np.uint32), size=len(ids), starts=True)
        return TokenShards.open(tmp_path / name)

    return write


@pytest.fixture
def write_examples(tmp_path: Path) -> WriteShards:
    """write_examples(examples, vocab_size=, shard_bytes=, name=, unit_documents=): pairs of ids and their loss mask."""

    def write(
        examples: list[tuple[list[int], list[bool]]],
        vocab_size: int = 300,
        shard_bytes: int = 64,
        name: str = "split",
        unit_documents: int = 1,
    ) -> TokenShards:
        none = DocumentFraming(None)
        with ShardWriter(tmp_path / name, vocab_size, none, "tokenizer", shard_bytes, masked=True) as writer:
            writer.unit_documents = unit_documents
            for ids, in_loss in examples:
                size = np.array([len(ids)])
                writer.add_examples(np.array(ids, dtype=np.uint32), np.array(in_loss, dtype=bool), size, size)
        return TokenShards.open(tmp_path / name)

    return write
