"""Reading of checkpoints: every byte is verified before any is used, and nothing in a checkpoint can run code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gptcli import strict_json
from gptcli.checkpoint.local_shards import Allocator
from gptcli.checkpoint.manifest import REMEDY, STATE_NAME, check_files, read_manifest, verify
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.errors import CheckpointError
from gptcli.storage import LARGE, read_regular, storage_errors

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint.

    Attributes:
        tensors: part -> name -> tensor, for the requested parts.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def load_checkpoint(
    path: Path,
    parts: Sequence[str] = ("model",),
    device: torch.device | str = "cpu",
    *,
    allocate: Allocator | None = None,
    group: ProcessGroup | None = None,
) -> Checkpoint:
    """Verify the checkpoint directory `path`, then read its state and the tensors of `parts`.

    Any number of ranks may have written it. A process alone gets whole tensors.

    Args:
        allocate: makes what each tensor is loaded into, which may be `LocalShards`. None: whole tensors on `device`.
        group: the ranks that all call this, share the verification, and each read what they need.

    Raises:
        CheckpointError: a file is damaged or missing; the message names it.
    """
    manifest = verify(path, group)
    files = {part: [path / name for name in sorted(manifest.files) if is_of(name, part)] for part in parts}
    missing = [part for part, found in files.items() if not found]
    if missing or STATE_NAME not in manifest.files:
        raise CheckpointError(f"{path} holds no {f'{missing[0]}.safetensors' if missing else STATE_NAME}", REMEDY)
    state = load_state(path / STATE_NAME)
    is_plain = files == {part: [path / f"{part}.safetensors"] for part in parts}
    if is_plain and allocate is None and group is None:
        tensors = {part: load_part(found[0], device) for part, found in files.items()}
    else:
        # This import takes half a second, which a plain checkpoint does not need.
        from gptcli.checkpoint.shards import load_shards

        tensors = {part: load_shards(found, allocate or whole_on(device), group) for part, found in files.items()}
    return Checkpoint(manifest.step, tensors, state)


def whole_on(device: torch.device | str) -> Allocator:
    """Return an allocator of whole tensors."""
    return lambda name, shape, dtype: torch.empty(shape, dtype=dtype, device=device)


def is_of(file_name: str, part: str) -> bool:
    """Return whether a file is PART.safetensors or, of one rank, PART-00001-of-00004.safetensors."""
    return re.fullmatch(rf"{re.escape(part)}(-\d{{5,}}-of-\d{{5,}}(-\d+)?)?\.safetensors", file_name) is not None


def newest_state(run: RunDirectory) -> dict[str, Any]:
    """Return the JSON part of the newest checkpoint whose JSON part is whole, or an empty table; reads no tensors."""
    for info in reversed(run.checkpoints()):
        try:
            check_files(info.path, read_manifest(info.path), [STATE_NAME])
            return load_state(info.path / STATE_NAME)
        except (CheckpointError, KeyError):
            continue
    return {}


def load_state(path: Path) -> dict[str, Any]:
    """Read the JSON part of a checkpoint.

    Raises:
        CheckpointError: the file holds no JSON table.
    """
    try:
        with storage_errors(path, "read"):
            state = strict_json.loads(read_regular(path, LARGE))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}", REMEDY) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} is damaged: not a table", REMEDY)
    return state


def load_part(path: Path, device: torch.device | str) -> dict[str, Tensor]:
    """Read the tensors of a file by name.

    They are copies: the library's tensors are views of the mapped file with arbitrary alignment, on which arithmetic
    could differ in the last bit from arithmetic on the tensors that were saved.
    """
    try:
        with storage_errors(path, "read"), safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name).to(device, copy=True) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}", REMEDY) from error
