"""A check that a training fits into the available memory, before anything of its size is allocated."""

from __future__ import annotations

import torch

from gptcli.console import size
from gptcli.errors import OutOfMemoryError
from gptcli.models.memory import BYTES_ID
from gptcli.nn.device import machine_memory_bytes
from gptcli.train.config import RunConfig

CPU = torch.device("cpu")


def host_bytes(config: RunConfig) -> int:
    """Return the bytes of a step's token ids and targets, which lie in the host's memory on every device."""
    return 2 * BYTES_ID * config.train.tokens_per_step


def fits(config: RunConfig, memory_bytes: int, device: torch.device) -> bool:
    """Return whether the device has the memory that training is estimated to need, and the host that of a step."""
    return memory_bytes <= machine_memory_bytes(device) and host_bytes(config) <= machine_memory_bytes(CPU)


def require_memory(config: RunConfig, memory_bytes: int, device: torch.device) -> None:
    """Refuse a training that does not fit.

    Raises:
        OutOfMemoryError: it does not fit; the message says how much it needs and how much is available.
    """
    if fits(config, memory_bytes, device):
        return
    if memory_bytes > machine_memory_bytes(device):
        raise OutOfMemoryError(
            f"training needs about {size(memory_bytes)} and {device} has {size(machine_memory_bytes(device))}",
            "choose a smaller model, train.batch_size or context, or set train.activation_checkpointing=full; --force "
            "tries it anyway",
        )
    raise OutOfMemoryError(
        f"a step of {config.train.tokens_per_step:,} tokens needs {size(host_bytes(config))} for their numbers alone",
        "choose a smaller train.tokens_per_step; --force tries it anyway",
    )
