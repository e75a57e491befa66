"""The jobs of worker processes: plain values, sent to them as JSON. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptcli.nn.device import Precision


@dataclass(frozen=True)
class LimitsJob:
    """Measure the highest rates of a device."""

    device: str
    seconds: float
    """Shortest time for which one rate is measured."""


@dataclass(frozen=True)
class TrainingJob:
    """Train a model of one shape on one random batch, over and over."""

    config: dict[str, Any]
    """A RunConfig as JSON: model, optimizer, clipping, compile, and the batch's shape (one micro-batch a step)."""
    device: str
    precision: Precision
    seconds: float
    """Approximate duration of a round, which consists of whole steps, at least one."""
    checkout: str | None = None
    """Directory of the program's source, for a program that is not an installed package."""


@dataclass(frozen=True)
class DecodingJob:
    """Continue prompts greedily by a fixed number of tokens, whatever the tokens are."""

    directory: str
    """A Hugging Face model directory."""
    scratch: str
    """An empty folder for converted weights."""
    numbers: str
    """Format of the weights: fp32, bf16 or int8."""
    prompts: list[list[int]]
    """Prompts of one length; a batch of B takes the first B."""
    new_tokens: int
    seconds: float
    """Approximate duration of a round, which consists of whole continuations, at least one."""
    device: str
    threads: int
    checkout: str | None = None
    """Directory of the program's source, for a program that is not an installed package."""
    compile: bool = False
    """Whether the decoding step is compiled first (gptcli only)."""


@dataclass(frozen=True)
class EncodingJob:
    """Encode texts, in each round with a newly loaded tokenizer, whose caches are empty."""

    tokenizer: str
    """A folder with tokenizer.json."""
    texts: str
    """A file with a JSON array of strings."""
    seq_len: int
    """Tokens of a sequence, where batches are drawn from the encoded texts."""
    batch_size: int
    seconds: float
    """Time for which batches are drawn."""
    scratch: str
    """An empty folder."""


JOBS = {"limits": LimitsJob, "train": TrainingJob, "generate": DecodingJob, "data": EncodingJob}
"""The job of each bench that has worker processes; the bench's name is also that of the module's function for it."""


@dataclass(frozen=True)
class Program:
    """A program whose speed is measured.

    Its module has a function for each bench that the program can take part in (`train`, `generate`, `data`), which
    takes that bench's job and returns a Contender.
    """

    name: str
    module: str
    numbers: tuple[str, ...] = ("fp32", "bf16")
    """Formats in which it can keep weights while it generates."""
    checkout: str | None = None
    """Directory of its source, for a program that is not an installed package."""


GPTCLI = Program("gptcli", "gptcli.report.bench.ours", ("fp32", "bf16", "int8"))
LIMIT = Program("limit", "gptcli.report.bench.peak_rates")
"""The machine at its best, measured in the same rounds as the programs."""


@dataclass(frozen=True)
class Task:
    """One program's part in a bench."""

    program: Program
    bench: str
    job: Any

    @property
    def is_essential(self) -> bool:
        """Whether the bench fails if this task fails, as it does for gptcli and the limit."""
        return self.program.module in (GPTCLI.module, LIMIT.module)

    def as_json(self) -> dict[str, Any]:
        """Return the task as the message that starts a worker."""
        return {"module": self.program.module, "bench": self.bench, "job": asdict(self.job)}
