"""How training is spread over several processes. Plain settings: knows no tensor and no process."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gptcli.config import Config


class ParallelConfig(Config):
    """How the ranks of `gptcli train --nproc N`, or of torchrun, share the work; without effect on one process."""

    strategy: Literal["ddp", "fsdp"] = "ddp"
    """ddp: every rank holds the whole model and its share of the data. fsdp: every rank holds a share of weights,
    gradients and moments too, and gathers each block when it is needed (FSDP2)."""

    replicas: int = Field(1, ge=1)
    """With fsdp: so many groups of ranks hold the model once each (hybrid sharding); gradients are summed over them.
    One a machine keeps the gathering inside the machines."""

    tensor: int = Field(1, ge=1)
    """Ranks that share each matrix of attention and MLP among them (tensor parallelism), every one with its heads. They
    see the same data, and talk in every block: keep them inside one machine."""

    reshard_after_forward: bool = True
    """With fsdp: drop a block's gathered weights after the forward pass and gather them again for the backward pass:
    less memory, half as much talk again."""

    cpu_offload: bool = False
    """With fsdp: keep weights, gradients and moments in the host's memory, and step there: slow, for models that fit
    no other way."""

    timeout_seconds: float = Field(600.0, gt=0, le=1e7)
    """How long a rank waits for another one in a step before it gives up and ends the run, naming the step."""
