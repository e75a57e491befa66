"""The whole configuration of a training run, composed of the sections of the lower floors. It imports no torch."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from gptcli.config import Config
from gptcli.data.config import DataConfig
from gptcli.models.adapter_config import AdapterConfig, NoAdapter
from gptcli.models.config import ModelConfig
from gptcli.objective.config import CrossEntropyConfig, ObjectiveConfig
from gptcli.optim.config import AdamWConfig, CosineSchedule, OptimConfig, ScheduleConfig
from gptcli.parallel.config import ParallelConfig

MOST_STEPS, MOST_EPOCHS, MOST_SECONDS = 10**15, 1e6, 1e9
"""Limits far above any training, below which products of such numbers are exact."""


TrackerName = Literal["tensorboard", "trackio", "wandb", "mlflow"]


class TrainerConfig(Config):
    """The length of the training, the size of its steps, and the events between them."""

    FREE_TEXTS = frozenset(("pace", "sample_prompt"))

    max_steps: int | None = Field(None, ge=1, le=MOST_STEPS)
    """Optimizer steps in all, or at most if max_seconds is set. If not set, max_seconds or the zero-config rule decides
    it."""

    epochs: float | None = Field(None, gt=0, le=MOST_EPOCHS)
    """Passes over the training split, instead of max_steps. For a mix, a pass is as many sequences as its corpora have
    together. It becomes max_steps, rounded up to a whole step, as soon as the text is tokenized, so run.toml has
    max_steps. If both are set, `--set` has priority over a file, and a file over the run that is resumed."""

    max_seconds: float | None = Field(None, gt=0, le=MOST_SECONDS)
    """Seconds that the whole command may take, from its start to the saved model. Keys that are not set are chosen for
    this time. `--time 10m` sets it. The run ends earlier after max_steps, which is chosen such that the text is not
    memorised."""

    pace: str = Field("", pattern=r"^(\d+:\d+( \d+:\d+)*)?$")
    """The progress of a run under a deadline, recorded for repeating the run: `STEP:END ...`, the last step as it was
    planned at each of these steps. The learning rate and all intervals count in steps of the first plan."""

    init_from: str = ""
    """The model whose shape, tokenizer and weights training starts from, with a new optimizer: a run, a Hugging Face
    directory or hf:NAME. If empty, the initial weights are random. `--init-from` sets it. The run keeps a copy of the
    model; that of an adapter keeps its place and the hash of its weights only."""

    corpus_bytes: int | None = Field(None, ge=1)
    """Bytes of the corpus to read, about, from files drawn by their hash. If not set, all of it is read, or as much as
    max_seconds leaves time to prepare."""

    tokens_per_step: int = Field(8192, ge=1)
    """Target tokens of one optimizer step. This number decides the result; gradients are accumulated over as many
    micro-batches as it needs."""

    batch_size: int = Field(16, ge=1)
    """Sequences of one micro-batch, which the model computes at once. It changes speed and memory, not the result."""

    seq_len: int | None = Field(None, ge=1)
    """Tokens of one training sequence; by default the model's context_length."""

    grad_clip: float = Field(1.0, ge=0)
    """Largest global gradient norm; a larger gradient is scaled down to it. 0 turns clipping off."""

    max_bad_steps: int = Field(3, ge=1)
    """Steps in a row with a loss or gradient that is not finite after which the run stops. They change no weight."""

    max_spike: float = Field(0.0, ge=0)
    """Robust deviations above the median of the last 128 losses from which on a step is skipped and counted as bad.
    6 to 10 is usual; 0 skips none."""

    log_every_steps: int = Field(20, ge=1)
    """Steps between two lines of metrics.jsonl."""

    eval_every_steps: int = Field(250, ge=1)
    """Steps between two measurements of the validation loss."""

    eval_tokens: int = Field(65536, ge=1)
    """Validation tokens of each such measurement, always the same ones. The last one measures the whole split."""

    patience: int = Field(0, ge=0)
    """Evaluations in a row without a lower validation loss after which the run ends; 0: it does not end early."""

    checkpoint_every_steps: int = Field(250, ge=1)
    """Steps between two checkpoints. They are written during the training, from a copy of weights and moments."""

    keep_last: int = Field(2, ge=1)
    """The number of latest checkpoints to keep. The newest complete one is never removed."""

    keep_best: bool = True
    """Keep the checkpoint of the lowest validation loss too, and save one at each new lowest loss."""

    keep_every_steps: int = Field(0, ge=0)
    """Keep every checkpoint whose step is a multiple of this number too; 0 keeps none."""

    sample_every_steps: int = Field(500, ge=0)
    """Steps between two printed samples of generated text; 0 prints none."""

    sample_tokens: int = Field(100, ge=1)
    """Tokens of each such sample."""

    sample_prompt: str = ""
    """The prompt of each such sample; if empty, it starts as a document does."""

    precision: Literal["auto", "fp32", "bf16", "fp16", "fp8"] = "auto"
    """Number format of matrix products. auto is bf16 on a CUDA device or a CPU with fast bf16, otherwise fp32. Weights
    stay in fp32. fp8 computes the blocks' products in 8 bits, on CUDA devices since Ada and Hopper
    (`pip install 'gptcli[fp8]'`)."""

    tf32: bool = True
    """Allow TensorFloat-32 in fp32 matrix products on CUDA."""

    activation_checkpointing: Literal["none", "full", "selective"] = "none"
    """The part of the blocks that the backward pass computes again, which saves memory. full: everything, for the least
    memory and a third more time, about. selective: all but matrix products and attention, with little more time."""

    compile: bool | Literal["auto"] = "auto"
    """Compile the loss with torch.compile, which delays the start and makes steps faster; auto: if the run is long
    enough to gain from it."""

    fingerprints: bool = False
    """Write hashes of each step's tokens, random state, weights and moments to fingerprints.jsonl, to compare runs."""

    trackers: tuple[TrackerName, ...] = ()
    """Trackers that receive the metrics besides metrics.jsonl (`pip install 'gptcli[track]'`)."""

    @field_validator("trackers", mode="before")
    @classmethod
    def one_or_several(cls, value: Any) -> Any:
        """Accept a single tracker without brackets."""
        return (value,) if isinstance(value, str) else value

    @property
    def breakpoints(self) -> tuple[tuple[int, int], ...]:
        """`pace` as (step, end) pairs."""
        pairs = (pair.split(":") for pair in self.pace.split())
        return tuple((int(start), int(end)) for start, end in pairs)

    @model_validator(mode="after")
    def one_length(self) -> TrainerConfig:
        """Refuse both epochs and max_steps."""
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("epochs and max_steps both set the length of the training; leave one of them out")
        return self

    @model_validator(mode="after")
    def pace_goes_forward(self) -> TrainerConfig:
        """Check that the steps and times of `pace` increase."""
        points = self.breakpoints
        if points and (
            points[0][0] or any(a >= b for (a, _), (b, _) in pairwise(points)) or any(a >= b for a, b in points)
        ):
            raise ValueError("pace must begin at step 0, its steps must rise, and each must lie before its end")
        if points and self.max_steps is not None and points[-1][1] < self.max_steps:
            raise ValueError(f"pace ends at step {points[-1][1]}, before max_steps {self.max_steps}; leave it out")
        return self


class RunConfig(Config):
    """All settings of a run. `run.toml` in a run directory holds exactly these, resolved."""

    device: str = "auto"
    """The device: auto (CUDA if there is one, otherwise the CPU), cpu, cuda, cuda:N or mps."""

    seed: int = Field(1337, ge=0, lt=2**63)
    """The seed of the initial weights, the order of the data, dropout, and the choice of validation documents."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    adapter: AdapterConfig = NoAdapter()
    objective: ObjectiveConfig = CrossEntropyConfig()
    optim: OptimConfig = AdamWConfig()
    schedule: ScheduleConfig = CosineSchedule()
    train: TrainerConfig = TrainerConfig()
    parallel: ParallelConfig = ParallelConfig()

    @property
    def seq_len(self) -> int:
        """Tokens of one training sequence."""
        return self.train.seq_len or self.model.context_length

    @property
    def sequences_per_step(self) -> int:
        """Sequences of one optimizer step, over all its micro-batches."""
        return self.train.tokens_per_step // self.seq_len

    @model_validator(mode="after")
    def check_objective(self) -> RunConfig:
        """Check that preferences are learnt from, and by the objective that compares answers."""
        name, kind = self.objective.name, self.data.kind
        if name == "dpo" and kind != "preferences":
            raise ValueError(f"objective.name is dpo and data.kind is {kind}; add --set data.kind=preferences")
        if kind == "preferences" and name != "dpo":
            raise ValueError(f"data.kind is preferences and objective.name is {name}; add --set objective.name=dpo")
        return self

    @model_validator(mode="after")
    def check_adapter(self) -> RunConfig:
        """Refuse an adapter beside random weights, or of matrices in 8 bits."""
        if self.adapter.name != "none" and not self.train.init_from:
            raise ValueError("an adapter needs a trained model; name one with train.init_from (--init-from)")
        if self.adapter.name != "none" and self.train.precision == "fp8":
            raise ValueError("train.precision fp8 does not support adapters; use bf16")
        return self

    @model_validator(mode="after")
    def check_rates(self) -> RunConfig:
        """Refuse a schedule that ends above the learning rate."""
        min_lr = getattr(self.schedule, "min_lr", 0.0)
        if min_lr > self.optim.lr:
            raise ValueError(f"schedule.min_lr {min_lr:g} is above optim.lr {self.optim.lr:g}; lower it")
        return self

    @model_validator(mode="after")
    def check_lengths(self) -> RunConfig:
        """Refuse sequences longer than the model's context, and steps of partial sequences."""
        if self.seq_len > self.model.context_length:
            raise ValueError(
                f"train.seq_len {self.seq_len} is longer than model.context_length {self.model.context_length}; "
                "lower the one or raise the other"
            )
        if self.train.tokens_per_step % self.seq_len:
            nearest = max(1, round(self.train.tokens_per_step / self.seq_len)) * self.seq_len
            raise ValueError(
                f"train.tokens_per_step {self.train.tokens_per_step} is not a multiple of the sequence length "
                f"{self.seq_len}; the nearest one is {nearest}"
            )
        return self
