"""The limited process that reads one pickle; pickles.py starts it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from gptcli import strict_json
from gptcli.interop.pickles import REST, TENSORS


def main(arguments: list[str]) -> None:
    """Read the pickle arguments[0] and write its tensors and the rest of it to the folder arguments[1]."""
    path, folder = map(Path, arguments)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        sys.exit(cause(error))
    if not isinstance(content, Mapping):
        sys.exit(f"it holds a {type(content).__name__}, not a table of tensors")
    tensors, rest = dict(named_tensors(content)), plain(content)
    save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, folder / TENSORS)
    (folder / REST).write_text(strict_json.dumps(rest), encoding="utf-8")


def cause(error: Exception) -> str:
    """Return the line of torch's message that says why it does not read a file.

    torch explains at length how to read such a file anyway; its last lines name what the file refers to.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    asked = next((line for line in lines if "GLOBAL" in line or "Unsupported" in line), None)
    return " ".join((asked or (lines or [type(error).__name__])[0]).split())[:300]


def named_tensors(table: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a table and of nested tables, under its path."""
    for key, value in table.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from named_tensors(value, f"{prefix}{key}/")


def plain(value: Any) -> Any:
    """Return the part of a value that JSON can hold."""
    if isinstance(value, Mapping):
        kept = {str(key): plain(entry) for key, entry in value.items() if not isinstance(entry, Tensor)}
        return {key: entry for key, entry in kept.items() if entry is not None}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value if isinstance(value, str | int | float | bool) else None
