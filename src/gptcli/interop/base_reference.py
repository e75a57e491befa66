"""The name of an adapter's base model: where it is, and which weights it has. Reads no model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gptcli import strict_json
from gptcli.errors import CheckpointError
from gptcli.interop.weights import read_json
from gptcli.manifest import in_threads, require_unchanged
from gptcli.storage import write_atomic

HUB_PREFIX = "hf:"
"""The beginning of the name of a model on the hub."""
BASE_FILE = "base.json"
"""The file of an adapter's run that names its base model."""


class BaseReference(NamedTuple):
    """The base model of an adapter.

    reference: an absolute path, or hf:NAME@REVISION; empty where there is no adapter.
    sha256: the hex SHA-256 of its weights; empty if it was not recorded, as in adapters of other programs.
    step: the checkpoint, if the base is a run that has checkpoints.
    """

    reference: str
    sha256: str
    step: int | None = None

    def save(self, run: Path) -> None:
        """Write the file that names the base into a run."""
        write_atomic(run / BASE_FILE, strict_json.dumps(self._asdict(), indent=2) + "\n")

    @classmethod
    def open(cls, run: Path) -> BaseReference:
        """Return the base that a run names; `NO_BASE` if it names none.

        Raises:
            CheckpointError: the file is damaged.
        """
        if not (run / BASE_FILE).is_file():
            return NO_BASE
        require_unchanged(run, BASE_FILE)
        return cls.of(read_json(run / BASE_FILE), run / BASE_FILE)

    @classmethod
    def of(cls, fields: Mapping[str, Any], source: Path) -> BaseReference:
        """Return the base that a JSON table names.

        Raises:
            CheckpointError: it is no such table.
        """
        reference, sha256, step = (fields.get(name) for name in cls._fields)
        is_step = step is None or (isinstance(step, int) and not isinstance(step, bool))
        if not isinstance(reference, str) or not isinstance(sha256, str) or not is_step:
            raise CheckpointError(f"{source} does not name the base of an adapter", "restore it from a copy")
        return cls(reference, sha256, step)


NO_BASE = BaseReference("", "")


def tensors_sha256(tensors: Mapping[str, Tensor], prefix: str = "") -> str:
    """Return the hex SHA-256 of `prefix` and of each tensor's name, dtype, shape and own hash, in the order of names.

    It does not depend on the file, its format or the device that holds the tensors. Several threads hash tensors.
    """
    named = sorted(tensors.items())
    digests = in_threads(lambda tensor, _: sha256_of(tensor), [tensor for _, tensor in named])
    lines = [
        f"{name} {tensor.dtype} {tuple(tensor.shape)} {digest}\n"
        for (name, tensor), digest in zip(named, digests, strict=True)
    ]
    return hashlib.sha256("".join([prefix, *lines]).encode()).hexdigest()


def sha256_of(tensor: Tensor) -> str:
    """Return the hex SHA-256 of a tensor's bytes."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()
