"""The name of an adapter's base model: where it is, and which weights it has. Reads no model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class BaseReference(NamedTuple):
    """The base model of an adapter.

    reference: an absolute path, or hf:NAME@REVISION; empty where there is no adapter.
    sha256: the hex SHA-256 of its weights; empty if it was not recorded, as in adapters of other programs.
    """

    reference: str
    sha256: str


NO_BASE = BaseReference("", "")


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the hex SHA-256 of tensors: of each one's name, dtype, shape and bytes, in the order of the names.

    It does not depend on the file, its format or the device that holds the tensors.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()
