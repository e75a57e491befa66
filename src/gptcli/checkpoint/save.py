"""Writing of checkpoints and removal of old ones. A checkpoint appears under its name whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gptcli import strict_json
from gptcli.checkpoint.manifest import MANIFEST_NAME, STATE_NAME, describe
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.checkpoint.tensor_files import write_tensors
from gptcli.errors import StorageError
from gptcli.storage import (
    atomic_directory,
    make_directory,
    refuse_special_file,
    remove_tree,
    storage_errors,
    temporary_name,
    write_file,
)

HEADER_BYTES_PER_TENSOR = 512
"""Upper bound of one tensor's entry in a safetensors header and in the manifest."""
NO_ROOM_LEFT = "the disk is too full"


def save_checkpoint(
    run: RunDirectory, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write checkpoints/step-XXXXXXXX and return its path; a checkpoint of the same step is replaced.

    Args:
        tensors: part -> name -> tensor, on any device; each part becomes PART.safetensors.
        state: anything JSON can hold. `val_loss` (nats per token, of exactly these weights; None if not evaluated),
            `config_fingerprint` and `data_fingerprint` are copied to the manifest.

    Raises:
        StorageError: the disk is too full or cannot be written; the message names the needed and the free bytes.
            Earlier checkpoints stay and nothing half-written is left.
    """
    target = run.checkpoint_path(step)
    state_text = strict_json.dumps(dict(state), ensure_ascii=False)
    needed = needed_bytes(tensors) + len(state_text.encode())
    if not has_room(run, needed):
        raise not_saved(run, step, needed, NO_ROOM_LEFT)
    try:
        with atomic_directory(target) as directory:
            for part, named in tensors.items():
                contiguous = {name: tensor.detach().contiguous() for name, tensor in named.items()}
                write_tensors(directory / f"{part}.safetensors", contiguous)
            write_file(directory / STATE_NAME, state_text)
            write_file(directory / MANIFEST_NAME, describe(directory, state, step).render())
    except StorageError as error:
        raise not_saved(run, step, needed, str(error)) from error
    return target


def needed_bytes(tensors: Mapping[str, Mapping[str, Tensor]]) -> int:
    """Return an upper bound of the bytes that the tensors take on disk."""
    flat = [tensor for named in tensors.values() for tensor in named.values()]
    return sum(tensor.nbytes + HEADER_BYTES_PER_TENSOR for tensor in flat) + 65_536


def has_room(run: RunDirectory, needed: int) -> bool:
    """Make the directory of checkpoints and return whether its disk has `needed` bytes free."""
    make_directory(run.checkpoints_dir)
    return free_bytes(run.checkpoints_dir) >= needed


def free_bytes(directory: Path) -> int:
    """Return the free bytes of the disk that holds a directory."""
    with storage_errors(directory, "read the free space of"):
        return shutil.disk_usage(directory).free


def not_saved(run: RunDirectory, step: int, needed: int, reason: str) -> StorageError:
    """Return the error about a checkpoint that was not saved."""
    free = free_bytes(run.checkpoints_dir)
    return StorageError(
        f"the checkpoint of step {step} in {run.path} was not saved: {reason} "
        f"(it needs {needed:,} bytes, {free:,} are free)",
        "free some disk space; earlier checkpoints are whole",
    )


def prune(run: RunDirectory, keep_last: int, keep_best: bool = True, keep_every_steps: int = 0) -> list[Path]:
    """Remove all but the newest `keep_last` checkpoints, the best one and every multiple of `keep_every_steps`.

    The newest checkpoint that verifies is always kept. Returns the removed paths.
    """
    found = run.checkpoints()
    kept = {info.step for info in found[-max(keep_last, 1) :]}
    kept |= {info.step for info in found if keep_every_steps and info.step % keep_every_steps == 0}
    best = run.best() if keep_best else None
    kept |= {best.step} if best else set()
    unwanted = [info for info in found if info.step not in kept]
    if not unwanted:
        return []
    good = run.last_good()
    run.require_own_checkpoints()
    removed = [info.path for info in unwanted if good is not None and info.step != good.step]
    for path in removed:
        remove_checkpoint(path)
    return removed


def remove_checkpoint(path: Path) -> None:
    """Rename, then delete, so that a kill in between leaves something to clean and never half a checkpoint."""
    condemned = temporary_name(path)
    with storage_errors(path, "remove"):
        refuse_special_file(path)
        path.rename(condemned)
        (condemned / MANIFEST_NAME).unlink(missing_ok=True)
        remove_tree(condemned)
