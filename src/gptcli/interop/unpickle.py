"""The process that reads one pickle: `python -m gptcli.interop.unpickle FILE FOLDER SECONDS`, started by pickles.py."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from gptcli import strict_json
from gptcli.interop.pickles import REST, TENSORS

SLACK_BYTES = 2**29
"""Beyond a few times the file's size, what the process may take in memory and on the disk."""


def main(path: Path, folder: Path, seconds: int) -> None:
    bound(path.stat().st_size, seconds)
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        sys.exit(f"it holds a {type(content).__name__}, not a table of tensors")
    tensors, rest = dict(named_tensors(content)), plain(content)
    save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, folder / TENSORS)
    (folder / REST).write_text(strict_json.dumps(rest), encoding="utf-8")


def bound(size: int, seconds: int) -> None:
    """Limit this process, of whose address space torch itself already takes a part."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if is_linux() else 0
    limits = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_FSIZE: 2 * size + SLACK_BYTES}
    if taken:
        limits[resource.RLIMIT_AS] = taken + 4 * size + SLACK_BYTES
    for what, value in limits.items():
        resource.setrlimit(what, (value, value))


def is_linux() -> bool:
    return sys.platform == "linux"


def named_tensors(table: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a table and of the tables in it, under its path."""
    for key, value in table.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from named_tensors(value, f"{prefix}{key}/")


def plain(value: Any) -> Any:
    """What JSON can hold of a value; the rest is left out."""
    if isinstance(value, Mapping):
        kept = {str(key): plain(entry) for key, entry in value.items() if not isinstance(entry, Tensor)}
        return {key: entry for key, entry in kept.items() if entry is not None}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value if isinstance(value, str | int | float | bool) else None


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
    except MemoryError:
        sys.exit("it takes more memory than a file of its size should")
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # torch explains at length how to read such a file all the same; its last lines name what the file asked for.
        asked = next((line for line in lines if "GLOBAL" in line or "Unsupported" in line), None)
        sys.exit(" ".join((asked or (lines or [type(error).__name__])[0]).split())[:300])
