"""How RoPE is made to fit a longer context: one class a kind, told apart by `name`. Knows no tensors.

The formulas are in nn/rope.py; the kinds and their parameters are those of transformers' modeling_rope_utils.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gptcli.config import Config

Factor = Annotated[float, Field(ge=1)]
Turns = Annotated[float, Field(gt=0)]
Length = Annotated[int, Field(ge=1, le=2**27)]


class LinearScaling(Config):
    """Every angle divided by factor, as if the tokens stood nearer together (Chen et al. 2023, arXiv:2306.15595)."""

    name: Literal["linear"] = "linear"
    """The kind of scaling."""
    factor: Factor
    """How many times longer the context is than that of the unscaled model."""


class Llama3Scaling(Config):
    """Slow turns divided by factor, fast ones kept, those between mixed (Llama 3.1)."""

    name: Literal["llama3"] = "llama3"
    """The kind of scaling."""
    factor: Factor
    """How many times longer the context is than that of the unscaled model."""
    original_context_length: Length
    """Tokens of context that the unscaled model was trained on."""
    low_freq_factor: Turns = 1.0
    """Pairs that turn less often than this in the original context are slowed down by factor."""
    high_freq_factor: Turns = 4.0
    """Pairs that turn more often than this in the original context are kept."""

    @model_validator(mode="after")
    def check_order(self) -> Self:
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor={self.low_freq_factor:g} is not below high_freq_factor={self.high_freq_factor:g}"
            )
        return self


class YarnScaling(Config):
    """As llama3, mixed along a ramp over the dimensions, and with sharper attention (Peng et al. 2023,
    arXiv:2309.00071)."""

    name: Literal["yarn"] = "yarn"
    """The kind of scaling."""
    factor: Factor
    """How many times longer the context is than that of the unscaled model."""
    original_context_length: Length
    """Tokens of context that the unscaled model was trained on."""
    beta_fast: Turns = 32.0
    """Pairs that turn more often than this in the original context are kept."""
    beta_slow: Turns = 1.0
    """Pairs that turn less often than this in the original context are slowed down by factor."""
    truncate: bool = True
    """Whether the ramp between them begins and ends at whole dimensions."""
    attention_factor: Turns | None = None
    """What rotated queries and keys are multiplied by; 0.1 ln(factor) + 1 by default."""

    @model_validator(mode="after")
    def check_order(self) -> Self:
        if self.beta_slow > self.beta_fast:
            raise ValueError(f"beta_slow={self.beta_slow:g} is above beta_fast={self.beta_fast:g}")
        return self


RopeScaling = Annotated[LinearScaling | Llama3Scaling | YarnScaling, Field(discriminator="name")]
