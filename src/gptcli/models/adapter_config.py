"""The configuration of an adapter: the weights that are trained in place of a model's own. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gptcli.config.base import Config

AdapterTargets = Literal["all", "attention", "mlp"]


class NoAdapter(Config):
    """No adapter: the model's own weights are trained."""

    name: Literal["none"] = "none"


class LoraConfig(Config):
    """LoRA: to each matrix W of the blocks a product B A of low rank is added (https://arxiv.org/abs/2106.09685).

    Only A and B, and the vectors of new tokens, are trained.
    """

    name: Literal["lora"] = "lora"
    rank: Annotated[int, Field(ge=1, le=4096)] = 16
    """The rank of B A: the columns of B and the rows of A. Queries, keys and values, and gate and up, each have an A
    and a B."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """B A is multiplied by alpha / rank, so that the learning rate need not change with the rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The probability with which a number of A's input is dropped in training."""
    rslora: bool = False
    """Multiply B A by alpha / sqrt(rank), with which high ranks learn more (https://arxiv.org/abs/2312.03732)."""
    dora: bool = False
    """Train the length of each row of W + B A as a weight of its own (https://arxiv.org/abs/2402.09353)."""
    targets: AdapterTargets = "all"
    """The matrices that get an adapter: all of the blocks, or those of attention or of the MLPs alone. Attention alone
    learns less."""
    muon: bool = False
    """Let Muon update A and B too, if it is the optimizer; otherwise AdamW does."""

    @property
    def scaling(self) -> float:
        """The factor of B A."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


AdapterConfig = Annotated[NoAdapter | LoraConfig, Field(discriminator="name")]
