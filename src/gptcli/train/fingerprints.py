"""Hashes of the inputs and results of a step, to compare two runs step by step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from gptcli.checkpoint.local_shards import local_tensors
from gptcli.data.batch import Batch

FINGERPRINTS_NAME = "fingerprints.jsonl"


def fingerprint(
    step: int, batches: Iterable[Batch], device: torch.device, parts: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Any]:
    """Return hashes of the tokens of `step`, of the random state after it, and of weights and moments.

    Args:
        parts: the parts of a checkpoint; of each tensor, what this process holds.
    """
    return {
        "step": step,
        "batch": hash_batches(batches),
        "random": hash_random_state(device),
        "weights": hash_tensors(parts["model"]),
        "moments": hash_tensors(parts["optimizer"]),
    }


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and every byte."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        for here in local_tensors(tensor):
            data: Any = here.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            digest.update(data)
    return digest.hexdigest()


def hash_batches(batches: Iterable[Batch]) -> str:
    """Return the SHA-256 of all ids that a step reads and predicts, however micro-batches divide them."""
    digest = hashlib.sha256()
    for row in (row for batch in batches for row in zip(batch.input_ids, batch.targets, strict=True)):
        for ids in row:
            digest.update(ids.contiguous().numpy())
    return digest.hexdigest()


def hash_tokens(batches: Iterable[Batch], first: int = 0) -> int:
    """Return the sum, modulo 2^48, of the hashes of a step's sequences, each hashed with its number, from `first` on.

    Several processes can add up their sums, which stay below 2^63 for up to 2^15 processes.
    """
    total = 0
    rows = (row for batch in batches for row in zip(batch.input_ids, batch.targets, strict=True))
    for number, row in enumerate(rows, start=first):
        digest = hashlib.blake2b(number.to_bytes(8, "little"), digest_size=6)
        for ids in row:
            digest.update(ids.contiguous().numpy())
        total += int.from_bytes(digest.digest(), "little")
    return total % 2**48


def hash_random_state(device: torch.device) -> str:
    """Return the hash of the states of the generators that a step uses."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return hash_tensors(states)
