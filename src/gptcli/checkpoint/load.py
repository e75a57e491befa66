"""Reading checkpoints: every byte is verified before any is used, and nothing in one can run code."""

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
    """tensors: part -> name -> tensor, for the parts that were asked for."""

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

    It does not matter how many ranks wrote it. A process alone gets whole tensors.

    Args:
        allocate: makes what each tensor is loaded into, which may be `LocalShards` of it. None: the whole of each,
            on `device`.
        group: the ranks that all call this, share the verifying, and each read what they need.

    Raises:
        CheckpointError: names the damaged or missing file.
    """
    manifest = verify(path, group)
    files = {part: [path / name for name in sorted(manifest.files) if is_of(name, part)] for part in parts}
    missing = [part for part, found in files.items() if not found]
    if missing or STATE_NAME not in manifest.files:
        raise CheckpointError(f"{path} holds no {f'{missing[0]}.safetensors' if missing else STATE_NAME}", REMEDY)
    state = load_state(path / STATE_NAME)
    if (
        allocate is None
        and group is None
        and all(found == [path / f"{part}.safetensors"] for part, found in files.items())
    ):
        tensors = {part: load_part(found[0], device) for part, found in files.items()}
    else:
        from gptcli.checkpoint.shards import load_shards  # half a second, which a plain checkpoint need not cost

        tensors = {part: load_shards(found, allocate or whole_on(device), group) for part, found in files.items()}
    return Checkpoint(manifest.step, tensors, state)


def whole_on(device: torch.device | str) -> Allocator:
    """Return an allocator of whole tensors."""
    return lambda name, shape, dtype: torch.empty(shape, dtype=dtype, device=device)


def is_of(file_name: str, part: str) -> bool:
    """Whether a file holds tensors of the part: PART.safetensors, or one rank's, PART-00001-of-00004.safetensors."""
    return re.fullmatch(rf"{re.escape(part)}(-\d{{5,}}-of-\d{{5,}}(-\d+)?)?\.safetensors", file_name) is not None


def newest_state(run: RunDirectory) -> dict[str, Any]:
    """The JSON part of the newest checkpoint whose JSON part is whole, without reading its tensors; empty where there
    is none."""
    for info in reversed(run.checkpoints()):
        try:
            check_files(info.path, read_manifest(info.path), [STATE_NAME])
            return load_state(info.path / STATE_NAME)
        except (CheckpointError, KeyError):
            continue
    return {}


def load_state(path: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint.

    Raises:
        CheckpointError: the file is no JSON table.
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
    """name -> tensor. Copies, since the library's tensors are views of the mapped file, aligned as it happens to be:
    arithmetic on them could differ in the last bit from arithmetic on the tensors that were saved."""
    try:
        with storage_errors(path, "read"), safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name).to(device, copy=True) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}", REMEDY) from error
