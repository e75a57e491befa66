"""Names of the sources of a corpus that tell nothing about the machine on which it lies. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

STDIN = "-"
ELSEWHERE = ("hf:", "python:")
"""Prefixes of sources that are named in the same way on every machine."""


def corpora(config: dict[str, Any]) -> Iterator[str]:
    """Yield the names of the corpora of a run's configuration, each once."""
    data = config.get("data", {})
    sources = [*data.get("corpus", []), *(source for entry in data.get("mix", []) for source in entry["corpus"])]
    yield from dict.fromkeys(map(public_name, sources))


def public_name(source: str) -> str:
    """Return a source of a configuration without what tells about this machine: the last part of a path."""
    if source == STDIN:
        return "standard input"
    return source if source.startswith(ELSEWHERE) else Path(source).name or "a folder"
