"""The layout of ranks as a box of replicas x shards x tensor, and the errors of layouts that are impossible.

The tensor ranks are neighbours, then the shards, then the replicas: the closest ranks communicate most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gptcli.console import quantity
from gptcli.errors import UsageError
from gptcli.models.config import ModelConfig
from gptcli.parallel.config import ParallelConfig


@dataclass(frozen=True)
class Layout:
    """`size` ranks, of which this is `rank`; `shards` is 1 where every rank holds whole weights."""

    rank: int = 0
    replicas: int = 1
    shards: int = 1
    tensor: int = 1

    @property
    def size(self) -> int:
        """The number of ranks."""
        return self.data_ranks * self.tensor

    @property
    def data_ranks(self) -> int:
        """The number of ranks, or groups of tensor ranks, that share the sequences of a step."""
        return self.replicas * self.shards

    @property
    def data_rank(self) -> int:
        """The number of this rank's share of the data."""
        return self.rank // self.tensor

    @property
    def is_sharded(self) -> bool:
        """True if a rank holds only a part of some weights."""
        return self.shards > 1 or self.tensor > 1


def lay_out(config: ParallelConfig, rank: int, size: int) -> Layout:
    """Return the layout of `size` ranks, seen from `rank`.

    Raises:
        UsageError: the settings do not suit that number of ranks.
    """
    if config.replicas > 1 and config.strategy != "fsdp":
        raise UsageError(
            f"parallel.replicas {config.replicas} is for strategy fsdp; under ddp every rank is a replica",
            "leave it out, or set parallel.strategy=fsdp",
        )
    if size % config.tensor:
        raise UsageError(
            f"{size} ranks cannot be divided into groups of parallel.tensor {config.tensor}",
            "let --nproc times --nnodes be a multiple of it",
        )
    data_ranks = size // config.tensor
    if config.strategy == "ddp":
        if config.tensor > 1 and data_ranks > 1:
            raise UsageError(
                f"parallel.tensor {config.tensor} on {size} ranks needs a strategy that shards",
                "set parallel.strategy=fsdp, and parallel.replicas for more copies of the model",
            )
        return Layout(rank, data_ranks, 1, config.tensor)
    if data_ranks % config.replicas:
        raise UsageError(
            f"{data_ranks} data ranks cannot be divided into parallel.replicas {config.replicas}",
            f"{size} ranks over parallel.tensor {config.tensor} must be a multiple of it",
        )
    return Layout(rank, config.replicas, data_ranks // config.replicas, config.tensor)


def require_divisible(layout: Layout, sequences: int, seq_len: int, option: str) -> None:
    """Raise UsageError where the sequences of a step cannot be shared evenly; `option` sets the tokens of a step."""
    if sequences % layout.data_ranks:
        even = math.ceil(sequences / layout.data_ranks) * layout.data_ranks
        raise UsageError(
            f"a step of {quantity(sequences, 'sequence')} ({sequences * seq_len:,} tokens by a length of {seq_len:,}) "
            f"cannot be shared evenly by {layout.data_ranks} data ranks",
            f"make steps of {even} sequences: {option}{even * seq_len}",
        )


def require_fitting(layout: Layout, model: ModelConfig, precision: str) -> None:
    """Raise UsageError where a part of the model, or its number format, cannot be sharded so."""
    if layout.is_sharded and precision in ("fp16", "fp8"):
        raise UsageError(
            f"train.precision {precision} needs whole weights on every rank", "use bf16, or parallel.strategy=ddp"
        )
    if layout.tensor == 1:
        return
    widths = {"n_head": model.n_head, "n_kv_head": model.kv_heads, "intermediate_size": model.mlp_width}
    for name, width in widths.items():
        if width % layout.tensor:
            raise UsageError(
                f"model.{name} {width} cannot be divided among parallel.tensor {layout.tensor} ranks",
                "choose a divisor of it",
            )
    if model.qk_norm and model.qk_norm_over == "heads":
        raise UsageError(
            "model.qk_norm_over=heads normalises over all heads, and with parallel.tensor no rank has them all",
            "set it to head, or parallel.tensor=1",
        )
