"""Reading checkpoints: every byte is verified before any is used, and nothing in one can run code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gptcli.checkpoint import strict_json
from gptcli.checkpoint.manifest import REMEDY, STATE_NAME, verify
from gptcli.errors import CheckpointError
from gptcli.storage import storage_errors


@dataclass(frozen=True)
class Checkpoint:
    """tensors: part -> name -> tensor, for the parts that were asked for."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def load_checkpoint(path: Path, parts: Sequence[str] = ("model",), device: torch.device | str = "cpu") -> Checkpoint:
    """Verify the checkpoint directory `path`, then read its state and the tensors of `parts`.

    Raises:
        CheckpointError: names the damaged or missing file.
    """
    manifest = verify(path)
    missing = [part for part in parts if f"{part}.safetensors" not in manifest.files]
    if missing or STATE_NAME not in manifest.files:
        raise CheckpointError(f"{path} holds no {f'{missing[0]}.safetensors' if missing else STATE_NAME}", REMEDY)
    state_path = path / STATE_NAME
    try:
        with storage_errors(state_path, "read"):
            state = strict_json.loads(state_path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{state_path} is damaged: {error}", REMEDY) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{state_path} is damaged: not a table", REMEDY)
    return Checkpoint(manifest.step, {part: load_part(path / f"{part}.safetensors", device) for part in parts}, state)


def load_part(path: Path, device: torch.device | str) -> dict[str, Tensor]:
    """name -> tensor. Copies, since the library's tensors are views of the mapped file, aligned as it happens to be:
    arithmetic on them could differ in the last bit from arithmetic on the tensors that were saved."""
    try:
        with storage_errors(path, "read"), safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name).to(device, copy=True) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}", REMEDY) from error
