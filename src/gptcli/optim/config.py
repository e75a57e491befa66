"""The settings of optimizers and learning-rate schedules. Plain numbers: knows no tensor and no step."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gptcli.config import Config

Rate = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Coefficient = Annotated[float, Field(ge=0, lt=1)]


class SgdConfig(Config):
    """Stochastic gradient descent. The defaults are the plain rule: new weight = weight - lr * gradient."""

    name: Literal["sgd"] = "sgd"
    lr: Rate = 0.1
    """Learning rate: the step along the negative gradient."""
    momentum: Coefficient = 0.0
    """Share of the previous step's direction that is kept; 0.9 is usual, 0 is plain gradient descent."""
    nesterov: bool = False
    """Look ahead along the momentum before stepping (Nesterov); needs momentum above 0."""
    weight_decay: NonNegative = 0.0
    """L2 penalty added to the gradient of matrices; norms and biases are never decayed."""

    @model_validator(mode="after")
    def nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0; set optim.momentum=0.9")
        return self


class AdamSettings(Config):
    """What AdamW needs, whether it updates every parameter or only those that Muon leaves."""

    name: str
    lr: Rate = 1e-3
    weight_decay: NonNegative = 0.1
    """Decoupled weight decay of matrices, embeddings and head (each step shrinks them by lr * weight_decay);
    norms and biases are never decayed."""
    beta1: Coefficient = 0.9
    """How much of AdamW's running mean of gradients is kept each step."""
    beta2: Coefficient = 0.95
    """How much of AdamW's running mean of squared gradients is kept each step; 0.95 follows GPT-3, 0.99 suits
    very small batches."""
    eps: Rate = 1e-8
    """Added to AdamW's denominator, so that a parameter without gradient stays put."""
    embedding_lr: Rate | None = None
    """Learning rate of the token and position embeddings; none: the same as the other AdamW parameters. Small models
    often take 10 times more here."""
    head_lr: Rate | None = None
    """Learning rate of the output head where it is not tied to the embedding; none: the same as the other AdamW
    parameters."""
    fused: bool | None = None
    """Run AdamW as one kernel per group of parameters; none: on CPU and CUDA."""


class AdamWConfig(AdamSettings):
    """Adam with decoupled weight decay (Loshchilov & Hutter, https://arxiv.org/abs/1711.05101)."""

    name: Literal["adamw"] = "adamw"
    lr: Rate = 1e-3
    """Learning rate. 1e-3 suits models of a few million parameters; larger ones need less (GPT-2 124M: 6e-4)."""


class MuonConfig(AdamSettings):
    """Muon for the hidden matrices, AdamW for embeddings, head, norms and biases.

    Momentum, orthogonalised by Newton-Schulz iterations (Jordan et al., https://kellerjordan.github.io/posts/muon/).
    """

    name: Literal["muon"] = "muon"
    lr: Rate = 1e-3
    """Learning rate of the hidden matrices. Its scale depends on adjust_lr: with match_rms_adamw take AdamW's
    learning rate, with original about 20 times that."""
    adamw_lr: Rate | None = None
    """Learning rate of everything else (embeddings, head, norms, biases); none: the same as lr."""
    momentum: Coefficient = 0.95
    """How much of Muon's running mean of gradients is kept each step."""
    nesterov: bool = True
    """Blend the newest gradient into the momentum once more before orthogonalising."""
    ns_steps: Annotated[int, Field(ge=1, le=20)] = 5
    """Newton-Schulz iterations; 5 bring all singular values near 1."""
    ns_precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the iterations; auto: bf16 where that is fast. bf16 serves as well, but makes much of rounding:
    only with fp32 do runs on other machines, or shared by other numbers of ranks, follow one curve closely."""
    adjust_lr: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
    """How an update is scaled by the matrix's shape (rows, columns): match_rms_adamw by 0.2 * sqrt(max(rows, columns)),
    so that AdamW's learning rate and weight decay carry over (Moonshot); original by sqrt(max(1, rows / columns))."""


OptimConfig = Annotated[SgdConfig | AdamWConfig | MuonConfig, Field(discriminator="name")]


class WarmUp(Config):
    """What every schedule has: a start from near zero."""

    name: str
    warmup_steps: Annotated[int, Field(ge=0)] = 10
    """Steps over which the learning rate rises linearly to its full value."""


class Decay(WarmUp):
    """What every schedule that decays has: where it ends."""

    min_lr: NonNegative = 0.0
    """Learning rate at the end, as an absolute value (not above optim.lr). Where embeddings or head have a rate of
    their own it falls by the same ratio."""


class ConstantSchedule(WarmUp):
    """Warm-up, then the full learning rate to the end."""

    name: Literal["constant"] = "constant"


class LinearSchedule(Decay):
    """Warm-up, then a straight line down to min_lr at the last step."""

    name: Literal["linear"] = "linear"


class CosineSchedule(Decay):
    """Warm-up, then half a cosine down to min_lr at the last step (nanoGPT's schedule)."""

    name: Literal["cosine"] = "cosine"


class WsdSchedule(Decay):
    """Warm-up, stable, decay: full rate, then a straight line to min_lr (https://arxiv.org/abs/2404.06395)."""

    name: Literal["wsd"] = "wsd"
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Part of all steps, at the end, over which the learning rate falls."""


ScheduleConfig = Annotated[
    ConstantSchedule | LinearSchedule | CosineSchedule | WsdSchedule, Field(discriminator="name")
]
