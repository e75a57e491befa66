"""Hashes of what a step is made of and what it leaves, by which two runs can be compared step by step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from gptcli.data.batches import Batch

FINGERPRINTS_NAME = "fingerprints.jsonl"


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Of names, dtypes, shapes and every byte."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def hash_batches(batches: Iterable[Batch]) -> str:
    """Of all the ids that a step reads and predicts, however they are cut into micro-batches."""
    digest = hashlib.sha256()
    for row in (row for batch in batches for row in zip(batch.input_ids, batch.targets, strict=True)):
        for ids in row:
            digest.update(ids.contiguous().numpy())
    return digest.hexdigest()


def hash_random_state(device: torch.device) -> str:
    """Of the generators that a step draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return hash_tensors(states)
