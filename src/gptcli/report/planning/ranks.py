"""How the devices are laid out, and what part of a model each of them holds.

The ranks are a box of replicas x shards x tensor: `tensor` ranks share the matrices of every block, `shards` ranks cut
up weights, gradients and moments, `replicas` groups hold the same. The closest ranks talk most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gptcli.errors import UsageError
from gptcli.models.config import ModelConfig

Strategy = Literal["ddp", "fsdp", "hsdp"]


@dataclass(frozen=True)
class Ranks:
    """A layout of devices, `per_host` of them in one machine."""

    replicas: int = 1
    shards: int = 1
    tensor: int = 1
    per_host: int = 8

    @property
    def size(self) -> int:
        return self.data_ranks * self.tensor

    @property
    def data_ranks(self) -> int:
        """Among how many the sequences of a step are dealt out."""
        return self.replicas * self.shards

    @property
    def hosts(self) -> int:
        return -(-self.size // self.per_host)

    def is_inside_host(self, neighbours: int) -> bool:
        """Whether so many neighbouring ranks lie in one machine."""
        return neighbours <= self.per_host


def lay_out(strategy: Strategy, gpus: int, tensor: int, replicas: int | None, per_host: int) -> Ranks:
    """The layout that `gptcli train` makes of [parallel]; hsdp is fsdp with `replicas`, by default one a host.

    Raises:
        UsageError: the devices cannot be laid out so.
    """
    if gpus % tensor:
        raise UsageError(f"{gpus} GPUs cannot be divided into groups of --tensor {tensor}", "choose a divisor")
    data_ranks = gpus // tensor
    if replicas is not None and strategy != "hsdp":
        raise UsageError(f"--replicas {replicas} is for --strategy hsdp", "leave it out, or choose hsdp")
    match strategy:
        case "ddp":
            if tensor > 1 and data_ranks > 1:
                raise UsageError(
                    f"--tensor {tensor} on {gpus} GPUs needs a strategy that shards", "choose --strategy fsdp or hsdp"
                )
            return Ranks(data_ranks, 1, tensor, per_host)
        case "fsdp":
            return Ranks(1, data_ranks, tensor, per_host)
        case "hsdp":
            groups = -(-gpus // per_host) if replicas is None else replicas
            if data_ranks % groups:
                raise UsageError(f"{data_ranks} data ranks cannot be divided into {groups} replicas", "set --replicas")
            return Ranks(groups, data_ranks // groups, tensor, per_host)


def part_of_model(model: ModelConfig, tensor: int) -> ModelConfig:
    """The model as one of `tensor` ranks holds it: every matrix of a block cut along its heads or its MLP's width.

    Embeddings, head and norms are whole on every rank.

    Raises:
        UsageError: heads or width cannot be divided so.
    """
    if tensor == 1:
        return model
    widths = {"n_head": model.n_head, "n_kv_head": model.kv_heads, "intermediate_size": model.mlp_width}
    for name, width in widths.items():
        if width % tensor:
            raise UsageError(
                f"model.{name} {width} cannot be divided among --tensor {tensor}", "choose a divisor of it"
            )
    parts = {name: width // tensor for name, width in widths.items()}
    return model.model_copy(update={**parts, "head_dim": model.head_width})
