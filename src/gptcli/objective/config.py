"""The settings of the objective. It imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gptcli.config import Config


class CrossEntropyConfig(Config):
    """The negative log-likelihood of the target tokens, their mean over a step."""

    name: Literal["cross_entropy"] = "cross_entropy"


class DPOConfig(Config):
    """Direct preference optimization (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290).

    The loss falls as the model prefers the chosen answer of a pair more than the model that training starts from does.
    """

    name: Literal["dpo"] = "dpo"
    beta: Annotated[float, Field(gt=0)] = 0.1
    """How strongly the model is held to the one that training starts from; a smaller beta lets it go further."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """The assumed part of pairs whose two answers are mixed up (conservative DPO); 0 trusts all of them."""


ObjectiveConfig = Annotated[CrossEntropyConfig | DPOConfig, Field(discriminator="name")]
