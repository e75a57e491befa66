"""The whole configuration of a training run, composed of the sections that the floors below own. Imports no torch."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from gptcli.config import Config
from gptcli.data.config import DataConfig
from gptcli.models.config import ModelConfig
from gptcli.optim.config import AdamWConfig, CosineSchedule, OptimConfig, ScheduleConfig
from gptcli.parallel.config import ParallelConfig

MOST_STEPS, MOST_EPOCHS, MOST_SECONDS = 10**15, 1e6, 1e9
"""Limits far beyond any training, which keep products of such numbers exact."""


class TrainerConfig(Config):
    """How long, how much at once, and what happens while it runs."""

    FREE_TEXTS = frozenset(("pace", "sample_prompt"))

    max_steps: int | None = Field(None, ge=1, le=MOST_STEPS)
    """Optimizer steps in all, with max_seconds at most; None: as many as that allows, or, without it, as the
    zero-config rule chooses."""

    epochs: float | None = Field(None, gt=0, le=MOST_EPOCHS)
    """Passes over the training split, instead of max_steps; for a mix, a pass is as many sequences as its corpora have
    together. It becomes max_steps, rounded up to a whole step, as soon as the text is tokenized, so the run's run.toml
    has max_steps. The last one set counts of the two: `--set` before a file, a file before the run that is
    resumed."""

    max_seconds: float | None = Field(None, gt=0, le=MOST_SECONDS)
    """Seconds that the whole command may take, from its start to the saved model; what is not set is chosen for them.
    `--time 10m` sets it. It ends sooner after max_steps, which are chosen where more would memorise the text."""

    pace: str = Field("", pattern=r"^(\d+:\d+( \d+:\d+)*)?$")
    """The progress of a run under a deadline, for repeating it: `STEP:END ...`, the last step as it was planned at each
    of these steps. The learning rate, and what happens every so many steps, count in steps as the first one planned."""

    init_from: str = ""
    """The model whose shape, tokenizer and weights training starts from, with a new optimizer: a run, a Hugging Face
    directory or hf:NAME; empty: weights are drawn. `--init-from` sets it. The run keeps a copy of it."""

    corpus_bytes: int | None = Field(None, ge=1)
    """Read only about so many bytes of the corpus, from files drawn by their hash; if not set, all of it. Chosen where
    max_seconds leaves no time to prepare more."""

    tokens_per_step: int = Field(8192, ge=1)
    """Target tokens of one optimizer step. It fixes the optimisation; accumulation follows from it and batch_size."""

    batch_size: int = Field(16, ge=1)
    """Sequences in one micro-batch: what goes through the model at once. Changes speed and memory, not the result."""

    seq_len: int | None = Field(None, ge=1)
    """Tokens of one training sequence; none: the model's context_length."""

    grad_clip: float = Field(1.0, ge=0)
    """Largest global gradient norm; a larger gradient is scaled down to it. 0 switches clipping off."""

    max_bad_steps: int = Field(3, ge=1)
    """Stop after so many steps in a row whose loss or gradient was not finite (each of them changes nothing)."""

    max_spike: float = Field(0.0, ge=0)
    """Skip a step whose loss is so many robust deviations above the median of the last 128, and count it as bad; 0:
    none. 6 to 10 is usual."""

    log_every_steps: int = Field(20, ge=1)
    """Steps between two lines of metrics.jsonl."""

    eval_every_steps: int = Field(250, ge=1)
    """Steps between two measurements of the validation loss."""

    eval_tokens: int = Field(65536, ge=1)
    """Validation tokens of each such measurement, always the same ones; the end of the run measures the whole split."""

    patience: int = Field(0, ge=0)
    """End the run after so many evaluations in a row without a lower validation loss; 0: never."""

    checkpoint_every_steps: int = Field(250, ge=1)
    """Steps between two checkpoints. They are written while training goes on, from a copy of weights and moments."""

    keep_last: int = Field(2, ge=1)
    """How many of the latest checkpoints to keep. The newest whole one is never removed."""

    keep_best: bool = True
    """Keep the checkpoint of the lowest validation loss too, and save one whenever that falls."""

    keep_every_steps: int = Field(0, ge=0)
    """Keep every checkpoint whose step is a multiple of it too; 0: none."""

    sample_every_steps: int = Field(500, ge=0)
    """Steps between two printed samples of generated text; 0: none."""

    sample_tokens: int = Field(100, ge=1)
    """Tokens of such a sample."""

    sample_prompt: str = ""
    """What such a sample begins with; empty: the start of a document."""

    precision: Literal["auto", "fp32", "bf16", "fp16", "fp8"] = "auto"
    """Number format of matrix products; auto: bf16 on a CUDA device or a CPU that is fast at it, else fp32.
    Weights stay fp32. With fp8 the blocks' products are in 8 bits, on CUDA from Ada and Hopper on
    (`pip install 'gptcli[fp8]'`)."""

    tf32: bool = True
    """Allow TensorFloat-32 in fp32 matrix products on CUDA."""

    activation_checkpointing: Literal["none", "full", "selective"] = "none"
    """What of the blocks is computed again in the backward pass instead of kept. full: everything, for the least memory
    and about a third more time; selective: all but matrix products and attention, for little time and less memory."""

    compile: bool | Literal["auto"] = "auto"
    """Compile the loss with torch.compile: slow to start, faster after that; auto: where the run is long enough."""

    fingerprints: bool = False
    """Write hashes of each step's tokens, random state, weights and moments to fingerprints.jsonl, to compare runs."""

    trackers: tuple[Literal["tensorboard", "trackio", "wandb", "mlflow"], ...] = ()
    """Where metrics go besides metrics.jsonl (`pip install 'gptcli[track]'`)."""

    @field_validator("trackers", mode="before")
    @classmethod
    def one_or_several(cls, value: Any) -> Any:
        """A single tracker may be written without brackets."""
        return (value,) if isinstance(value, str) else value

    @property
    def breakpoints(self) -> tuple[tuple[int, int], ...]:
        """`pace` as (step, end) pairs."""
        pairs = (pair.split(":") for pair in self.pace.split())
        return tuple((int(start), int(end)) for start, end in pairs)

    @model_validator(mode="after")
    def one_length(self) -> TrainerConfig:
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("epochs and max_steps both say how long to train; leave one of them out")
        return self

    @model_validator(mode="after")
    def pace_goes_forward(self) -> TrainerConfig:
        points = self.breakpoints
        if points and (
            points[0][0] or any(a >= b for (a, _), (b, _) in pairwise(points)) or any(a >= b for a, b in points)
        ):
            raise ValueError("pace must begin at step 0, its steps must rise, and each must lie before its end")
        if points and self.max_steps is not None and points[-1][1] < self.max_steps:
            raise ValueError(f"pace ends at step {points[-1][1]}, before max_steps {self.max_steps}; leave it out")
        return self


class RunConfig(Config):
    """Everything that decides a run. `run.toml` in a run directory holds exactly this, resolved."""

    device: str = "auto"
    """auto (CUDA where there is one, else the CPU), cpu, cuda, cuda:N or mps."""

    seed: int = Field(1337, ge=0, lt=2**63)
    """Decides the initial weights, the order of the data, dropout, and which documents are validated on."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
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
    def check_rates(self) -> RunConfig:
        min_lr = getattr(self.schedule, "min_lr", 0.0)
        if min_lr > self.optim.lr:
            raise ValueError(f"schedule.min_lr {min_lr:g} is above optim.lr {self.optim.lr:g}; lower it")
        return self

    @model_validator(mode="after")
    def check_lengths(self) -> RunConfig:
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
