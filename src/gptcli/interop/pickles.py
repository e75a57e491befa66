"""Weights in a pickle (`.pt`, `.pth`, `.bin`), read by a limited process that may only create tensors.

A pickle is a program. Only torch's reader for weights runs it, in a process with limits on time, memory and files; its
result is a safetensors file and JSON. Only an explicit import uses this module.
"""

from __future__ import annotations

import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gptcli.errors import CheckpointError
from gptcli.interop.weights import (
    INDEX,
    SINGLE,
    LoadedWeights,
    WeightFiles,
    Weights,
    open_safetensors,
    read_json,
    shard_paths,
)
from gptcli.limited_process import LimitedProcessError, ProcessLimits, run
from gptcli.storage import LARGE, storage_errors

SAFE_TORCH = (2, 10)
"""The first torch without CVE-2025-32434 and CVE-2026-24747: before it a file read as weights only could run code."""
SLACK_BYTES = 2**29
"""Bytes that the process may use in memory and on disk beyond a few times the file's size."""
BASE_SECONDS, BYTES_PER_SECOND = 60, 20_000_000
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
TENSORS, REST = "tensors.safetensors", "rest.json"


class Pickled(NamedTuple):
    """The content of a pickle.

    Attributes:
        tensors: by name, with the names of nested tables joined by `/`.
        rest: everything else that JSON can hold.
    """

    tensors: dict[str, Tensor]
    rest: dict[str, Any]


def weights_or_pickles(directory: Path) -> Weights:
    """Open the weights of a model directory: its safetensors files or, without any, its pickles.

    Raises:
        CheckpointError, StorageError: as `WeightFiles` and `read_pickle`.
    """
    if not (directory / SINGLE).is_file() and not (directory / INDEX).is_file():
        if (directory / PICKLE).is_file():
            return LoadedWeights(str(directory), read_pickle(directory / PICKLE).tensors)
        if (directory / PICKLE_INDEX).is_file():
            shards = [read_pickle(path) for path in shard_paths(directory / PICKLE_INDEX, ".bin")]
            return LoadedWeights(str(directory), {name: t for shard in shards for name, t in shard.tensors.items()})
    return WeightFiles(directory)


def read_pickle(path: Path) -> Pickled:
    """Read a file of weights.

    Raises:
        CheckpointError: it is not a file of weights alone, or needs more memory or time than a file of its size should;
            this torch is too old to read it safely.
        StorageError: it cannot be read, or the disk is too full for a copy.
    """
    require_safe_torch(torch.__version__)
    with storage_errors(path, "read"):
        size = path.stat().st_size
        require_honest_zip(path, size)
    with storage_errors(tempfile.gettempdir()), tempfile.TemporaryDirectory(prefix="gptcli-") as folder:
        seconds = BASE_SECONDS + size // BYTES_PER_SECOND
        limits = ProcessLimits(4 * size + SLACK_BYTES, cpu_seconds=seconds, file_bytes=2 * size + SLACK_BYTES)
        try:
            run("gptcli.interop.unpickle", [str(path), folder], limits, wall_seconds=2 * seconds)
        except LimitedProcessError as error:
            raise refused(path, str(error)) from error
        file = open_safetensors(Path(folder, TENSORS))
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return Pickled(tensors, read_json(Path(folder, REST), LARGE))


def require_safe_torch(version: str) -> None:
    """Refuse a torch that is older than SAFE_TORCH."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < SAFE_TORCH:
        raise CheckpointError(
            f"torch {version} cannot read a pickle safely",
            f"update torch to {'.'.join(map(str, SAFE_TORCH))} or newer, or convert the file to safetensors elsewhere",
        )


def require_honest_zip(path: Path, size: int) -> None:
    """Refuse a compressed archive, which may grow when it is read; torch writes uncompressed ones."""
    try:
        with zipfile.ZipFile(path) as archive:
            grown = sum(entry.file_size for entry in archive.infolist())
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except zipfile.BadZipFile:
        return  # an older form, or no file of torch, which the reader reports
    if packed or grown > size:
        raise refused(path, f"it claims to hold {grown:,} bytes in {size:,}")


def refused(path: Path, reason: str) -> CheckpointError:
    """Return the error about a file that is not read."""
    return CheckpointError(
        f"{path} is not read: {reason.rstrip('.')}", "it must hold weights and nothing else: convert it to safetensors"
    )
