"""The kinds of RoPE scaling for a longer context: one class a kind, identified by `name`. It imports no torch.

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
    """Position interpolation, which divides every angle by factor (Chen et al. 2023, arXiv:2306.15595)."""

    name: Literal["linear"] = "linear"
    """The kind of scaling."""
    factor: Factor
    """The context's length as a multiple of that of the unscaled model."""


class Llama3Scaling(Config):
    """Slow rotations are divided by factor, fast ones kept, and those between interpolated (Llama 3.1)."""

    name: Literal["llama3"] = "llama3"
    """The kind of scaling."""
    factor: Factor
    """The context's length as a multiple of that of the unscaled model."""
    original_context_length: Length
    """Context length of the unscaled model, in tokens."""
    low_freq_factor: Turns = 1.0
    """Pairs with fewer turns than this in the original context are slowed down by factor."""
    high_freq_factor: Turns = 4.0
    """Pairs with more turns than this in the original context stay unchanged."""

    @model_validator(mode="after")
    def check_order(self) -> Self:
        """Refuse low_freq_factor unless it is below high_freq_factor."""
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor={self.low_freq_factor:g} is not below high_freq_factor={self.high_freq_factor:g}"
            )
        return self


class YarnScaling(Config):
    """Like llama3 with a ramp over the dimensions, and with sharper attention (Peng et al. 2023, arXiv:2309.00071)."""

    name: Literal["yarn"] = "yarn"
    """The kind of scaling."""
    factor: Factor
    """The context's length as a multiple of that of the unscaled model."""
    original_context_length: Length
    """Context length of the unscaled model, in tokens."""
    beta_fast: Turns = 32.0
    """Pairs with more turns than this in the original context stay unchanged."""
    beta_slow: Turns = 1.0
    """Pairs with fewer turns than this in the original context are slowed down by factor."""
    truncate: bool = True
    """Whether the ends of the ramp between them are rounded to whole dimensions."""
    attention_factor: Turns | None = None
    """Factor on rotated queries and keys; 0.1 ln(factor) + 1 by default."""

    @model_validator(mode="after")
    def check_order(self) -> Self:
        """Refuse a beta_slow above beta_fast."""
        if self.beta_slow > self.beta_fast:
            raise ValueError(f"beta_slow={self.beta_slow:g} is above beta_fast={self.beta_fast:g}")
        return self


RopeScaling = Annotated[LinearScaling | Llama3Scaling | YarnScaling, Field(discriminator="name")]
