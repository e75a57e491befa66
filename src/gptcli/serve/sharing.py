"""Adapters over one base, whose weights are in memory once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.interop.base_reference import NO_BASE, BaseReference
from gptcli.interop.peft_config import ADAPTER_CONFIG, read_base
from gptcli.models.gpt import GPT


def shares_its_base(path: str, others: Iterable[str]) -> bool:
    """Return whether the model at a path is an adapter of one of the other models, or of the base of one of them.

    Raises:
        CheckpointError: an adapter is damaged.
    """
    base = base_of(path).reference
    return bool(base) and any(base in (place_of(other), base_of(other).reference) for other in others)


def base_of(path: str) -> BaseReference:
    """Return the base that an adapter names; `NO_BASE` for another model."""
    directory = Path(path)
    if RunDirectory.is_run(directory):
        return BaseReference.open(directory)
    return read_base(directory) if (directory / ADAPTER_CONFIG).is_file() else NO_BASE


def place_of(path: str) -> str:
    """Return the name by which an adapter refers to the model at a path."""
    return str(Path(path).absolute()) if Path(path).exists() else path


def share_weights(model: GPT, others: Iterable[GPT]) -> None:
    """Let a model use the tensors of other models in the place of its own equal ones, whose memory is then free."""
    known = defaultdict[tuple[object, ...], list[Tensor]](list)
    for other in others:
        for tensor in other.parameters():
            known[form(tensor)].append(tensor)
    for module in model.modules():
        for name, tensor in list(module.named_parameters(recurse=False)):
            equal = next((one for one in known[form(tensor)] if torch.equal(one, tensor)), tensor)
            setattr(module, name, equal)


def form(tensor: Tensor) -> tuple[object, ...]:
    """Return what two tensors must have in common to be equal."""
    return tuple(tensor.shape), tensor.dtype, tensor.device
