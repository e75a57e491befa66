"""Saving during training: everything is copied at once, and a thread writes the copy while training goes on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gptcli.checkpoint.collectives import on_all, on_first
from gptcli.checkpoint.local_shards import LocalShards, local_tensors
from gptcli.checkpoint.run_directory import LOGS, RunDirectory
from gptcli.checkpoint.save import needed_bytes, not_saved, prune, save_checkpoint
from gptcli.errors import StorageError
from gptcli.manifest import record

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Parts = Mapping[str, Mapping[str, Tensor]]


class BackgroundSaver:
    """Writes the checkpoints of one run, one at a time, and removes those that are no longer wanted.

    The buffers for the copy are kept and used again.

    The ranks of a `group` save together, each its shards: all call the same methods at the same steps, and a save that
    fails on one fails on all. The group must be the saver's own and have a backend for the CPU, since its thread
    communicates in it while the training communicates in others.

    Attributes:
        step: the newest checkpoint that was submitted and has not failed; None before the first.
        seconds: how long the last save took; None before the first.
    """

    def __init__(
        self,
        run: RunDirectory,
        *,
        keep_last: int,
        keep_best: bool = True,
        keep_every_steps: int = 0,
        group: ProcessGroup | None = None,
    ) -> None:
        self.run, self.group = run, group
        self.prune = partial(prune, run, keep_last, keep_best, keep_every_steps)
        self.worker = ThreadPoolExecutor(1, "save")
        self.writing: Future[None] | None = None
        self.copy: dict[str, dict[str, Tensor]] = {}
        self.step: int | None = None
        self.seconds: float | None = None

    def resumed(self, step: int) -> None:
        """Note that the run holds the checkpoint of `step` already."""
        self.step = step

    def has(self, step: int) -> bool:
        """Return whether the newest checkpoint that was submitted, and has not failed, is that of `step`."""
        return self.step == step

    def submit(self, step: int, parts: Parts, state: Mapping[str, Any], before: Callable[[], None]) -> None:
        """Begin to save `parts` and `state` as they are now; the thread calls `before` first.

        Call `wait` before this: a copy that is still being written must not be overwritten.
        """
        self.copy = copied(parts, self.copy)
        self.step = step
        self.writing = self.worker.submit(self.write, step, dict(state), before)

    def write(self, step: int, state: Mapping[str, Any], before: Callable[[], None]) -> None:
        """Write the copy as the checkpoint of `step`, in the thread."""
        began = time.perf_counter()
        try:
            on_all(self.group, before)
        except StorageError as error:
            raise not_saved(self.run, step, needed_bytes(self.copy), str(error)) from error
        if self.group is None:
            save_checkpoint(self.run, step, self.copy, state)
        else:
            # This import takes half a second, which a process alone does not need.
            from gptcli.checkpoint.shards import save_shards

            save_shards(self.run, step, self.copy, state, self.group)
        on_first(self.group, self.prune)
        on_first(self.group, self.list_logs)
        self.seconds = time.perf_counter() - began

    def list_logs(self) -> None:
        """List the run's grown and new files in its manifest; on a full disk the old manifest stays true."""
        with contextlib.suppress(StorageError):
            record(self.run.path, ("trackers.json", "bad-steps"), LOGS)

    def wait(self) -> StorageError | None:
        """Wait until nothing is being written; return the error of the last save once, or None."""
        if self.writing is None:
            return None
        error = self.writing.exception()
        self.writing = None
        if error is None:
            return None
        self.step = None
        if isinstance(error, StorageError):
            return error
        raise error


def copied(parts: Parts, buffers: Parts) -> dict[str, dict[str, Tensor]]:
    """Return every tensor on the CPU, contiguous, in the buffer of its name if that fits."""
    made = {
        part: {name: copy_of(tensor, buffers.get(part, {}).get(name)) for name, tensor in named.items()}
        for part, named in parts.items()
    }
    tensors = (tensor for named in parts.values() for tensor in named.values())
    for device in {here.device for tensor in tensors for here in local_tensors(tensor) if here.is_cuda}:
        torch.cuda.synchronize(device)
    return made


def copy_of(tensor: Tensor, buffer: Tensor | None) -> Tensor:
    """Return a copy of what this process holds of `tensor`; the copy of a GPU's tensor may still be under way."""
    if isinstance(tensor, LocalShards):
        if isinstance(buffer, LocalShards):
            return tensor.each(copy_of, buffer.tensors)
        return tensor.each(lambda shard: copy_of(shard, None))
    if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
        buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return buffer.copy_(tensor.detach(), non_blocking=True)
