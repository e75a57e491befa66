"""Records of steps that were skipped because a number was not finite or the loss was a spike.

RUN/bad-steps/step-00000123.json         step, loss, grad_norm, reason, and the texts of its sequences
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from gptcli import strict_json
from gptcli.console import say
from gptcli.data.batch import Batch
from gptcli.errors import StorageError
from gptcli.storage import make_directory, write_atomic
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.train.step import StepResult

DIRECTORY = "bad-steps"


def reason_of(result: StepResult) -> str:
    """Return why a step was skipped, in words."""
    if not math.isfinite(result.loss):
        return "the loss is not finite"
    return "the loss is a spike" if math.isfinite(result.grad_norm) else "the gradient is not finite"


def texts_of(batches: list[Batch], tokenizer: Tokenizer) -> list[str]:
    """Return the text of every sequence of a step, in order."""
    return [tokenizer.decode(row.ids_read().tolist()) for batch in batches for row in batch.split(1)]


def keep_bad_step(run: Path, step: int, result: StepResult, batches: list[Batch], tokenizer: Tokenizer) -> None:
    """Write the record of a bad step and print where it is; on a full disk, print a warning instead."""
    path = run / DIRECTORY / f"step-{step:08d}.json"
    record: dict[str, Any] = {
        "step": step,
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "reason": reason_of(result),
        "texts": texts_of(batches, tokenizer),
    }
    try:
        make_directory(path.parent)
        write_atomic(path, strict_json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        say(f"its text is in {path}")
    except StorageError as error:
        say(f"warning: {error}")
