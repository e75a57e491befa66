"""The checks that end a training whose numbers are not finite, and their errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from gptcli.checkpoint.collectives import on_all
from gptcli.checkpoint.load import Checkpoint
from gptcli.checkpoint.local_shards import named_local_tensors
from gptcli.console import shell_word
from gptcli.errors import DivergedError
from gptcli.nn.finite import bad_values, require_finite
from gptcli.parallel.strategy import Strategy
from gptcli.parallel.world import World
from gptcli.train.config import RunConfig

RATES = ("lr", "adamw_lr", "embedding_lr", "head_lr")
"""The learning rates of a configuration; the largest one is the first to be lowered."""


def diverged(found: str, config: RunConfig, also: str = "") -> DivergedError:
    """Return the error that ends a training; `also` is a remedy beside a lower learning rate."""
    rates = {name: getattr(config.optim, name, None) or 0.0 for name in RATES}
    largest = max(RATES, key=lambda name: rates[name])
    lower = f"lower optim.{largest} (now {rates[largest]:g}) and start again"
    return DivergedError(f"training diverged: {found}", f"{lower}{also and f', or {also}'}")


def bad_steps_in_a_row(count: int, step: int, config: RunConfig, run: Path) -> DivergedError:
    """Return the error of `count` bad steps in a row, of which `step` is the last."""
    look = f"look at one: gptcli replay {shell_word(run)} {step}"
    return diverged(f"{count} steps in a row up to step {step} were bad", config, look)


def require_finite_loss(loss: float, step: int, config: RunConfig) -> None:
    """Raise DivergedError where a validation loss is not finite; nothing is saved of the weights that have it."""
    if not math.isfinite(loss):
        raise diverged(f"the validation loss after step {step:,} is {loss}; no checkpoint of that step is kept", config)


def require_finite_state(parts: Mapping[str, Mapping[str, Tensor]], step: int, config: RunConfig, world: World) -> None:
    """Check what is about to be saved as the checkpoint of `step`; all ranks call this, each with its part.

    Raises:
        DivergedError: a weight or a number of the optimizer is not finite.
    """
    found = bad_values(named_local_tensors(parts))
    if world.any(bool(found)):
        what = str(found[0]) if found else "another rank has weights that are not finite"
        raise diverged(f"after step {step:,} {what}; no checkpoint of that step is kept", config)


def load_finite(path: Path, parts: Sequence[str], strategy: Strategy) -> Checkpoint:
    """Read the parts of a checkpoint that this rank trains on.

    Raises:
        CheckpointError: the checkpoint is damaged, or a value in it is not finite; on all ranks that read parts of it.
    """
    found = strategy.load_checkpoint(path, parts)
    remedy = f"go on from the checkpoint before it: rm -r {shell_word(str(path))}"
    on_all(strategy.group, lambda: require_finite(named_local_tensors(found.tensors), path, remedy))
    return found
