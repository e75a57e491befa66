"""The check that a checkpoint belongs to the training that resumes from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.config import RawConfig
from gptcli.config.differences import differences
from gptcli.console import say, shell_word
from gptcli.data.shards import TokenShards
from gptcli.errors import CheckpointError, DataError
from gptcli.interop.base_reference import NO_BASE
from gptcli.train.resume import ROUNDING, compared, init_command, refuse_changes

if TYPE_CHECKING:
    from gptcli.train.planning.plan import Plan


def identity(plan: Plan, ranks: int) -> dict[str, Any]:
    """Return the part of a checkpoint's state that identifies its training, for `require_same_training`."""
    return {
        "data_fingerprint": plan.data.train.fingerprint,
        "val_fingerprint": plan.data.val.fingerprint,
        "config_fingerprint": plan.config_fingerprint,
        "config": plan.config.model_dump(mode="json"),
        "machine": machine(plan.device, ranks),
        **({"base": plan.start.base._asdict()} if plan.start and plan.start.base != NO_BASE else {}),
    }


def machine(device: torch.device, ranks: int) -> dict[str, Any]:
    """Return the properties of the machine that, beside the settings, affect the last bits of a sum."""
    is_cuda = device.type == "cuda"
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if is_cuda else device.type,
        "ranks": ranks,
        **({} if is_cuda else {"threads": torch.get_num_threads()}),
    }


def require_same_training(state: Mapping[str, Any], plan: Plan, run: RunDirectory, ranks: int) -> None:
    """Check that a checkpoint was trained as planned now, on the same text, and measured on the same validation part.

    Prints a line where the machine is another one, so that the weights will differ in their last bits.

    Args:
        state: the state of the checkpoint.
        ranks: the number of processes that train now.

    Raises:
        ConfigError: the checkpoint was trained with other settings.
        CheckpointError: a text has changed; the error names the command that trains the weights on the new one.
    """
    values = plan.config.model_dump(mode="json")
    if "config" in state and state["config_fingerprint"] != plan.config_fingerprint:
        refuse_changes(run.path, differences(compared(state["config"]), compared(values)), RawConfig(values))
    remedy = (
        f"put the text back, or train the weights on this one in a new run: {init_command(run.path, values['data'])}"
    )
    corpus = ", ".join(plan.config.data.corpus) or "data.mix"
    if state["data_fingerprint"] != plan.data.train.fingerprint:
        raise CheckpointError(f"the text of {corpus} is not the one that {run.path} was trained on", remedy)
    base = plan.start.base if plan.start else NO_BASE
    if state.get("base", NO_BASE._asdict())["sha256"] != base.sha256:
        raise CheckpointError(
            f"{base.reference} is not the base model that the adapter in {run.path} was trained on",
            f"name the place that has it: gptcli checkpoint rebase {shell_word(run.path)} BASE",
        )
    measured = state.get("val_fingerprint") or kept_fingerprint(run.path / "val")
    if measured not in (None, plan.data.val.fingerprint):
        named = plan.config.data.val or corpus
        raise CheckpointError(f"the validation text of {named} is not the one that {run.path} is measured on", remedy)
    now, before = machine(plan.device, ranks), state.get("machine", {})
    others = [
        f"{name} was {before[name]} and is {value}" for name, value in now.items() if before.get(name, value) != value
    ]
    if others:
        say(f"{'changed':<11} {', '.join(others)} (after step {state['step']:,}: {ROUNDING})")


def kept_fingerprint(directory: Path) -> str | None:
    """Return the fingerprint of the validation part in a run; None where it is missing or damaged."""
    try:
        return TokenShards.open(directory).fingerprint
    except DataError:
        return None
