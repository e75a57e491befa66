"""Checkpoints that several ranks write and read, each its own shards. torch.distributed.checkpoint plans who writes and
who reads what, on however many ranks; here is how it lies in files.

The directory is the one that a process alone writes, but for PART-00001-of-00004.safetensors and its siblings, those of
each rank, in place of PART.safetensors. Each one's header says where in the whole tensors its pieces begin, in the way
of torch's HuggingFaceStorageReader, which reads them. DCP's own format is a pickle: it is neither written nor read.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint import DefaultLoadPlanner, DefaultSavePlanner, HuggingFaceStorageReader, StorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from gptcli import strict_json
from gptcli.checkpoint.local_shards import Allocator
from gptcli.checkpoint.manifest import MANIFEST_NAME, REMEDY, STATE_NAME, describe
from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.checkpoint.save import NO_ROOM_LEFT, has_room, needed_bytes, not_saved
from gptcli.checkpoint.tensor_files import write_tensors
from gptcli.errors import CheckpointError, StorageError, first_line
from gptcli.storage import atomic_directory, errors_name, fsync_path, sha256_file, storage_errors, write_file

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

OFFSETS_KEY = "DCP_SHARDING_INFO"
"""Where torch.distributed.checkpoint.hf_storage keeps the offsets in a header: {name: {"saved_offsets": [...]}}."""


def save_shards(
    run: RunDirectory,
    step: int,
    parts: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    group: ProcessGroup,
) -> Path:
    """Write checkpoints/step-XXXXXXXX together and return its path, as `save_checkpoint` does alone.

    Every rank of `group` calls it, with `LocalShards` of the same tensors or, where each has the whole, plain ones.
    What several ranks hold is written by one. The state is the first rank's.

    Raises:
        StorageError: on every rank, where one of them could not write; names the rank. Earlier checkpoints are
            untouched and nothing half-written is left.
    """
    # In one order whatever that of the parts, so that the same tensors are the same bytes.
    flat = {f"{part}/{name}": named[name] for part, named in parts.items() for name in sorted(named)}
    needed = needed_bytes(parts) + len(strict_json.dumps(dict(state), ensure_ascii=False).encode())
    with ExitStack() as opened:
        writer = ShardedCheckpointWriter(run, step, state, needed, opened)
        planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        try:
            dcp.save(flat, storage_writer=writer, planner=planner, process_group=group)
        except CheckpointException as error:
            rank, cause = first_cause(error)
            if not isinstance(cause, StorageError):
                raise cause from error
            raise not_saved(run, step, needed, f"rank {rank}: {cause}") from error
    return run.checkpoint_path(step)


class ShardedCheckpointWriter(StorageWriter):
    """Puts one checkpoint where `save_shards` says. The first rank opens the directory, each rank writes and hashes its
    own files in it, the first one adds state and manifest and gives the directory its name."""

    def __init__(self, run: RunDirectory, step: int, state: Mapping[str, Any], needed: int, opened: ExitStack) -> None:
        self.run, self.step, self.state, self.needed, self.opened = run, step, state, needed, opened
        self.directory: Path | None = None

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing: a writer is for one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing: what there is to set up, the first rank does once it knows that every rank has a plan."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """On the first rank: open the directory, and tell each rank where it is and what its files' names say of it.

        Raises:
            StorageError: there is no room.
        """
        if not has_room(self.run, self.needed):
            raise StorageError(NO_ROOM_LEFT)
        self.directory = self.opened.enter_context(atomic_directory(self.run.checkpoint_path(self.step)))
        places = [(self.directory, f"{rank:05d}-of-{len(plans):05d}") for rank in range(1, len(plans) + 1)]
        return [dataclasses.replace(plan, storage_data=place) for plan, place in zip(plans, places, strict=True)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's files of each part: one, and more where it holds several pieces of one tensor, whose name
        a file can have but once. The results say each file's name, size and SHA-256.

        Raises:
            StorageError: a file cannot be written.
        """
        directory, rank = plan.storage_data
        if not directory.is_dir():
            raise StorageError(
                f"{directory.parent} is not the directory that the first rank writes to",
                "the hosts must share the file system that holds the run",
            )
        files: dict[str, dict[str, Any]] = {}
        for item in plan.items:
            part, _, name = item.index.fqn.partition("/")
            names = (f"{part}-{rank}{f'-{n}' if n > 1 else ''}.safetensors" for n in itertools.count(1))
            file = next(file for file in names if name not in files.get(file, ()))
            files.setdefault(file, {})[name] = item
        results = []
        for file, items in files.items():
            tensors = {name: planner.resolve_data(item).detach().contiguous() for name, item in items.items()}
            offsets = {name: {"saved_offsets": list(item.index.offset)} for name, item in items.items()}
            with errors_name(self.run.checkpoint_path(self.step), directory), storage_errors(directory / file):
                write_tensors(directory / file, tensors, {OFFSETS_KEY: strict_json.dumps(offsets)})
                fsync_path(directory / file)
            size, digest = (directory / file).stat().st_size, sha256_file(directory / file)
            results.append(WriteResult(MetadataIndex(file), size, digest))
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """On the first rank, once all have written: add state and manifest, flush, rename.

        Raises:
            StorageError: a file cannot be written, or is not seen here.
        """
        files = {result.index.fqn: (result.size_in_bytes, result.storage_data) for of in results for result in of}
        with storage_errors(self.directory):
            for name, (size, _) in files.items():
                if (self.directory / name).stat().st_size != size:
                    raise StorageError(f"{self.directory / name} has not the {size:,} bytes that were written")
            write_file(self.directory / STATE_NAME, strict_json.dumps(dict(self.state), ensure_ascii=False))
            manifest = describe(self.directory, self.state, self.step, files)
            write_file(self.directory / MANIFEST_NAME, manifest.render())
        self.opened.close()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return False


class PartReader(HuggingFaceStorageReader):
    """Reads these files only, of all that lie in a checkpoint."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__(str(paths[0].parent))
        self.fs = Listed(paths)


class Listed(FileSystem):
    """A file system in which nothing but these files is found."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = [str(path) for path in paths]

    def ls(self, path: Any) -> list[str]:
        return self.paths


def load_shards(paths: Sequence[Path], allocate: Allocator, group: ProcessGroup | None) -> dict[str, Tensor]:
    """name -> what `allocate` made for the tensor of that name, filled, of the part that lies in the files `paths`.

    Args:
        paths: files that were verified, of however many ranks.
        group: the ranks that all call this; none for a process alone.

    Raises:
        CheckpointError: the files are not the pieces of whole tensors.
    """
    reader = PartReader(paths)
    damaged = f"{paths[0].parent} is damaged"
    try:
        entries = reader.read_metadata().state_dict_metadata
        for name, entry in entries.items():
            require_whole(name, entry)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{damaged}: {first_line(error)}", REMEDY) from error
    tensors = {name: allocate(name, entry.size, entry.properties.dtype) for name, entry in entries.items()}
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it is meant to be
            dcp.load(tensors, storage_reader=reader, planner=planner, process_group=group, no_dist=group is None)
    except CheckpointException as error:
        _, cause = first_cause(error)
        if isinstance(cause, SafetensorError | ValueError | AssertionError):
            raise CheckpointError(f"{damaged}: {first_line(cause)}", REMEDY) from error
        with storage_errors(paths[0].parent, "read"):
            raise cause from error
    return tensors


def require_whole(name: str, entry: TensorStorageMetadata) -> None:
    """Check that the pieces of a tensor fill it.

    Raises:
        ValueError: they overlap or leave gaps.
    """
    corners = {tuple(chunk.offsets) for chunk in entry.chunks if math.prod(chunk.sizes)}
    pieces = [chunk for chunk in entry.chunks if math.prod(chunk.sizes)]
    filled = sum(math.prod(chunk.sizes) for chunk in pieces)
    if len(corners) != len(pieces) or filled != math.prod(entry.size) or any(min(c, default=0) < 0 for c in corners):
        raise ValueError(f"the pieces of {name} do not fill it")


def first_cause(error: CheckpointException) -> tuple[int, BaseException]:
    """The first rank that failed, and its error."""
    rank = min(error.failures)
    return rank, error.failures[rank][0]
