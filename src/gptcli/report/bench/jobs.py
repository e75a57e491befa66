"""What a contender is asked to do: plain values, which travel as JSON to the process it runs in. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class LimitsJob:
    """Find out what the device can do at best."""

    device: str
    seconds: float
    """How long one figure is measured at least."""


@dataclass(frozen=True)
class TrainingJob:
    """Train one shape on one random batch, over and over."""

    config: dict[str, Any]
    """A RunConfig as JSON: model, optimizer, clipping, compile, and the batch's shape (one micro-batch a step)."""
    device: str
    precision: str
    seconds: float
    """How long a round lasts about; it holds whole steps, at least one."""
    checkout: str | None = None
    """Where the peer's own source lies, if it is not an installed package."""


@dataclass(frozen=True)
class DecodingJob:
    """Continue prompts greedily by a fixed number of tokens, whatever they are."""

    directory: str
    """A Hugging Face model directory."""
    scratch: str
    """An empty folder for what the contender makes of it."""
    numbers: str
    """What the weights are kept in: fp32, bf16 or int8."""
    prompts: list[list[int]]
    """Prompts of one length; a batch of B takes the first B."""
    new_tokens: int
    seconds: float
    """How long a round lasts about; it holds whole continuations, at least one."""
    device: str
    threads: int
    checkout: str | None = None
    compile: bool = False
    """Compile the decoding step first; only ours can be asked to."""


@dataclass(frozen=True)
class EncodingJob:
    """Encode texts, each time by a tokenizer that has seen none of them."""

    tokenizer: str
    """A folder with tokenizer.json."""
    texts: str
    """A file with a JSON array of strings."""
    seq_len: int
    """Tokens of a sequence, where batches are taken from what was encoded."""
    batch_size: int
    seconds: float
    """How long batches are taken."""
    scratch: str
    """An empty folder."""


JOBS = {"limits": LimitsJob, "train": TrainingJob, "generate": DecodingJob, "data": EncodingJob}
"""The job of each bench that has contenders, which is also the name of the function of `peers` that takes it."""


ESSENTIAL = ("ours", "limit")
"""The modules of `peers` without which there is no contest: gptcli, and the machine at its best."""


@dataclass(frozen=True)
class Task:
    """One contender's part in a bench: the module of `peers` that builds it, and what it is asked to do."""

    module: str
    bench: str
    job: Any

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
