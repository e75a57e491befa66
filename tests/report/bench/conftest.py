"""A small shape for the benches."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_gpt2 import write_tiny_gpt2


@pytest.fixture
def shape(tmp_path: Path) -> Path:
    """A config file with a tiny GPT-2."""
    return write_tiny_gpt2(tmp_path)
