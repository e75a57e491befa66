"""Checkpoints of which several ranks write and read their own shards.

torch.distributed.checkpoint (DCP) plans which rank writes and reads what, on any number of ranks; this module writes
the files. The directory is that of a process alone, with a file for each rank, such as
PART-00001-of-00004.safetensors, in place of PART.safetensors. A file's header has the offsets of its shards in the
whole tensors, in the form of torch's HuggingFaceStorageReader, which reads them. DCP's own format is a pickle and is
neither written nor read.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
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
"""The key of torch.distributed.checkpoint.hf_storage for the offsets in a header: {name: {"saved_offsets": [...]}}."""


def save_shards(
    run: RunDirectory,
    step: int,
    parts: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    group: ProcessGroup,
) -> Path:
    """Write checkpoints/step-XXXXXXXX on all ranks and return its path.

    Every rank of `group` calls it, with `LocalShards` of the same tensors or, where each has the whole, plain ones.
    What several ranks hold is written by one. The state is the first rank's.

    Raises:
        StorageError: on every rank, if one of them could not write; the message names the rank. Earlier checkpoints
            stay and nothing half-written is left.
    """
    # The order does not depend on that of the parts, so that the same tensors are the same bytes.
    flat = {f"{part}/{name}": named[name] for part, named in parts.items() for name in sorted(named)}
    needed = needed_bytes(parts) + len(strict_json.dumps(dict(state), ensure_ascii=False).encode())
    with ExitStack() as opened:
        writer = ShardedCheckpointWriter(run, step, state, needed, opened)
        planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        try:
            save(flat, storage_writer=writer, planner=planner, process_group=group)
        except CheckpointException as error:
            rank, cause = first_cause(error)
            if not isinstance(cause, StorageError):
                raise cause from error
            raise not_saved(run, step, needed, f"rank {rank}: {cause}") from error
    return run.checkpoint_path(step)


class ShardedCheckpointWriter(StorageWriter):
    """Writes one checkpoint for `save_shards`.

    The first rank opens the temporary directory, each rank writes and hashes its own files in it, and the first rank
    adds state and manifest and gives the directory its name.

    Attributes:
        directory: where the first rank adds its files: the temporary directory once it is open.
    """

    def __init__(self, run: RunDirectory, step: int, state: Mapping[str, Any], needed: int, opened: ExitStack) -> None:
        self.run, self.step, self.state, self.needed, self.opened = run, step, state, needed, opened
        self.directory = run.checkpoint_path(step)

    def reset(self, checkpoint_id: Any = None) -> None:
        """Do nothing: a writer is for one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the first rank opens the directory when every rank has a plan."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Return the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Open the directory on the first rank, and add its path and the rank's part of file names to each plan.

        Raises:
            StorageError: the disk is too full.
        """
        if not has_room(self.run, self.needed):
            raise StorageError(NO_ROOM_LEFT)
        self.directory = self.opened.enter_context(atomic_directory(self.run.checkpoint_path(self.step)))
        places = [(self.directory, f"{rank:05d}-of-{len(plans):05d}") for rank in range(1, len(plans) + 1)]
        return [dataclasses.replace(plan, storage_data=place) for plan, place in zip(plans, places, strict=True)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's files of each part and return each file's name, size and SHA-256.

        A part has several files where the rank holds several shards of one tensor, since a file has a name only once.

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
            tensors = {name: cast(Tensor, planner.resolve_data(item)) for name, item in items.items()}
            tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
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
        """Add state and manifest, flush and rename, on the first rank, when all ranks have written.

        Raises:
            StorageError: a file cannot be written, or another rank's file is not visible here.
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
        """Return False: the writer is never chosen by a path."""
        return False


class ListedFiles(FileSystem):
    """A file system that lists only the given files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = [str(path) for path in paths]

    def ls(self, path: Any) -> list[str]:
        """Return the given files."""
        return self.paths


def load_shards(paths: Sequence[Path], allocate: Allocator, group: ProcessGroup | None) -> dict[str, Tensor]:
    """Load the tensors of one part into what `allocate` makes, and return them by name.

    Args:
        paths: the verified files of the part, from any number of ranks.
        group: the ranks that all call this; None for a process alone.

    Raises:
        CheckpointError: the shards in the files do not fill their tensors.
    """
    reader = HuggingFaceStorageReader(str(paths[0].parent))
    reader.fs = ListedFiles(paths)
    damaged = f"{paths[0].parent} is damaged"
    try:
        listed = reader.read_metadata().state_dict_metadata
        entries = {name: entry for name, entry in listed.items() if isinstance(entry, TensorStorageMetadata)}
        for name, entry in entries.items():
            require_whole(name, entry)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{damaged}: {first_line(error)}", REMEDY) from error
    tensors = {name: allocate(name, entry.size, entry.properties.dtype) for name, entry in entries.items()}
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as intended for a process alone
            load(tensors, storage_reader=reader, planner=planner, process_group=group, no_dist=group is None)
    except CheckpointException as error:
        _, cause = first_cause(error)
        if isinstance(cause, SafetensorError | ValueError | AssertionError):
            raise CheckpointError(f"{damaged}: {first_line(cause)}", REMEDY) from error
        with storage_errors(paths[0].parent, "read"):
            raise cause from error
    return tensors


def require_whole(name: str, entry: TensorStorageMetadata) -> None:
    """Check that the shards of a tensor fill it.

    Raises:
        ValueError: the shards overlap or leave gaps.
    """
    corners = {tuple(chunk.offsets) for chunk in entry.chunks if math.prod(chunk.sizes)}
    shards = [chunk for chunk in entry.chunks if math.prod(chunk.sizes)]
    filled = sum(math.prod(chunk.sizes) for chunk in shards)
    if len(corners) != len(shards) or filled != math.prod(entry.size) or any(min(c, default=0) < 0 for c in corners):
        raise ValueError(f"the shards of {name} do not fill it")


def first_cause(error: CheckpointException) -> tuple[int, BaseException]:
    """Return the first rank that failed, and its error."""
    rank = min(error.failures)
    return rank, error.failures[rank][0]
