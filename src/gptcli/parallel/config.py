"""The settings of training with several processes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gptcli.config import Config


class ParallelConfig(Config):
    """The division of work among the ranks of `gptcli train --nproc N` or torchrun; one process ignores these keys."""

    strategy: Literal["ddp", "fsdp"] = "ddp"
    """ddp: every rank holds the whole model and its share of the data. fsdp: every rank holds a share of weights,
    gradients and moments too, and gathers each block when it is needed (FSDP2)."""

    replicas: int = Field(1, ge=1)
    """The number of groups of ranks that hold the model once each (fsdp only: hybrid sharding). Gradients are summed
    over the groups. One group per machine keeps the gathering inside the machines."""

    tensor: int = Field(1, ge=1)
    """The number of ranks that share each matrix of attention and MLP (tensor parallelism), each with its own heads.
    They see the same data and communicate in every block: keep them inside one machine."""

    reshard_after_forward: bool = True
    """Drop a block's gathered weights after the forward pass and gather them again for the backward pass (fsdp only):
    less memory, half as much communication again."""

    cpu_offload: bool = False
    """Keep weights, gradients and moments in the host's memory, and run the optimizer there (fsdp only). This is slow,
    for models that do not fit otherwise."""

    timeout_seconds: float = Field(600.0, gt=0, le=1e7)
    """The seconds that a rank waits for another one in a step; then the run ends with an error that names the step."""
