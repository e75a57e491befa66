"""Writing of safetensors files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from gptcli.errors import StorageError, first_line
from gptcli.storage import storage_errors

SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")
"""Matches the number of a system error in a message of Rust."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write contiguous tensors to a file in a temporary directory.

    It must be a temporary directory: the library first writes a file beside `path`, which stays there if the process
    is killed, and sets permissions of its own.

    Raises:
        StorageError: the file cannot be written.
    """
    with storage_errors(path, needed=sum(tensor.nbytes for tensor in tensors.values())):
        try:
            save_file(dict(tensors), path, None if metadata is None else dict(metadata))
        except SafetensorError as error:  # the library wraps the system's errors in one of its own
            number = SYSTEM_ERROR.search(str(error))
            if number is None:
                raise StorageError(f"cannot write {path}: {first_line(error)}") from error
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
