"""The settings of optimizers and learning-rate schedules. It imports no torch."""

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
    """Learning rate: the factor of the gradient in an update."""
    momentum: Coefficient = 0.0
    """Part of the previous step's direction that is kept; 0.9 is usual, 0 is plain gradient descent."""
    nesterov: bool = False
    """Use Nesterov momentum, which looks ahead along the momentum; it needs momentum above 0."""
    weight_decay: NonNegative = 0.0
    """L2 penalty that is added to the gradient of matrices; norms and biases have none."""

    @model_validator(mode="after")
    def nesterov_needs_momentum(self) -> Self:
        """Refuse Nesterov momentum without momentum."""
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0; set optim.momentum=0.9")
        return self


class AdamSettings(Config):
    """The settings of AdamW, whether it updates every parameter or only those that Muon does not."""

    name: str
    lr: Rate = 1e-3
    weight_decay: NonNegative = 0.1
    """Decoupled weight decay of matrices, embeddings and head: each step shrinks them by lr * weight_decay. Norms and
    biases have none."""
    beta1: Coefficient = 0.9
    """Part of AdamW's running mean of gradients that each step keeps."""
    beta2: Coefficient = 0.95
    """Part of AdamW's running mean of squared gradients that each step keeps; 0.95 is GPT-3's value, 0.99 suits very
    small batches."""
    eps: Rate = 1e-8
    """Number added to AdamW's denominator, so that a parameter without a gradient does not move."""
    embedding_lr: Rate | None = None
    """Learning rate of the token and position embeddings; by default that of the other AdamW parameters. Small models
    often use 10 times as much."""
    head_lr: Rate | None = None
    """Learning rate of an output head that is not tied to the embedding; by default that of the other AdamW
    parameters."""
    fused: bool | None = None
    """Run AdamW as one kernel for each group of parameters; by default on CPU and CUDA."""


class AdamWConfig(AdamSettings):
    """Adam with decoupled weight decay (Loshchilov & Hutter, https://arxiv.org/abs/1711.05101)."""

    name: Literal["adamw"] = "adamw"
    lr: Rate = 1e-3
    """Learning rate; 1e-3 suits models of a few million parameters, and larger ones need less (GPT-2 124M: 6e-4)."""


class MuonConfig(AdamSettings):
    """Muon for the hidden matrices, AdamW for embeddings, head, norms and biases.

    Its updates are the momentum, orthogonalised by Newton-Schulz iterations (Jordan et al.,
    https://kellerjordan.github.io/posts/muon/).
    """

    name: Literal["muon"] = "muon"
    lr: Rate = 1e-3
    """Learning rate of the hidden matrices. With adjust_lr = "match_rms_adamw" it has the scale of AdamW's rate, with
    "original" about 20 times that."""
    adamw_lr: Rate | None = None
    """Learning rate of everything else (embeddings, head, norms, biases); by default lr."""
    momentum: Coefficient = 0.95
    """Part of Muon's running mean of gradients that each step keeps."""
    nesterov: bool = True
    """Mix the newest gradient into the momentum once more before it is orthogonalised."""
    ns_steps: Annotated[int, Field(ge=1, le=20)] = 5
    """Newton-Schulz iterations; 5 bring all singular values near 1."""
    ns_precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the iterations; auto: bf16 if it is fast. bf16 learns as well but amplifies rounding: only with
    fp32 do runs on other machines, or on other numbers of ranks, follow the same curve closely."""
    adjust_lr: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
    """The factor of an update by the matrix's shape (rows, columns): match_rms_adamw is 0.2 * sqrt(max(rows, columns)),
    with which AdamW's learning rate and weight decay can be used (Moonshot); original is
    sqrt(max(1, rows / columns))."""


OptimConfig = Annotated[SgdConfig | AdamWConfig | MuonConfig, Field(discriminator="name")]


class WarmUp(Config):
    """The warm-up, which every schedule has."""

    name: str
    warmup_steps: Annotated[int, Field(ge=0)] = 10
    """Steps over which the learning rate rises linearly to its full value."""


class Decay(WarmUp):
    """The end of every schedule that decays."""

    min_lr: NonNegative = 0.0
    """Learning rate at the end, as an absolute value, at most optim.lr. Separate rates of embeddings and head fall by
    the same ratio."""


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
    """Part of all steps, at the end of the run, in which the learning rate falls."""


ScheduleConfig = Annotated[
    ConstantSchedule | LinearSchedule | CosineSchedule | WsdSchedule, Field(discriminator="name")
]
