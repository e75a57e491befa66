"""A run's description of its model, apart from the weights: tokenizer, shape, and the wanted checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gptcli import strict_json
from gptcli.checkpoint.run_directory import CheckpointInfo, RunDirectory
from gptcli.config import RawConfig, read_toml, validate
from gptcli.config.names import with_present_keys
from gptcli.console import say, shell_word
from gptcli.errors import CheckpointError, UsageError
from gptcli.interop.peft_config import ADAPTER_WEIGHTS
from gptcli.interop.weights import SINGLE
from gptcli.manifest import read_manifest, require_unchanged
from gptcli.models.config import ModelConfig
from gptcli.storage import read_regular
from gptcli.tokenizer.framing import DocumentFraming
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer

FINAL_WEIGHTS = (ADAPTER_WEIGHTS, SINGLE)
"""The files of the weights of a finished run, of which it has one."""


def run_tokenizer(run: RunDirectory) -> Tokenizer:
    """Return the tokenizer of a run, with the document framing that the run was trained with.

    A run whose data.json does not record the framing was trained with the token that ends a text before each document.
    """
    tokenizer = load_tokenizer(run.path)
    if is_framing_recorded(run):
        return tokenizer
    framed = tokenizer.with_framing(DocumentFraming(tokenizer.eos_id))
    if framed is not tokenizer:
        begins = (framed.framing.begin_id, tokenizer.framing.begin_id)
        before, usual = ("nothing" if begin is None else tokenizer.token_text(begin) for begin in begins)
        say(
            f"{run.path} was trained by an earlier version with {before} before each document, not {usual}, and is "
            "used in the same way"
        )
    return framed


def is_framing_recorded(run: RunDirectory) -> bool:
    """Return whether data.json records the document framing; True if there is no such file."""
    require_unchanged(run.path, "data.json")
    try:
        report = strict_json.parse(read_regular(run.path / "data.json"))
    except (OSError, ValueError):
        return True
    return not isinstance(report, dict) or "framing" in report


def config_of(run: RunDirectory, state: Mapping[str, Any]) -> ModelConfig:
    """Return the config that a checkpoint was trained with, and warn if run.toml describes another model.

    Raises:
        CheckpointError: the checkpoint of an earlier version does not record it, and run.toml is damaged.
        ConfigError: run.toml describes no model.
    """
    name = run.config_path.name
    recorded = with_present_keys(state.get("config", {})).get("model")
    if recorded is not None:
        if (manifest := read_manifest(run.path)).below([name]) and manifest.damage(name):
            say(f"warning: {run.config_path} was changed after the training; the model is the one that was trained")
        return validate(ModelConfig, RawConfig(recorded, dict.fromkeys(recorded, f"the checkpoint in {run.path}")))
    require_unchanged(run.path, name)
    values = read_toml(run.config_path).values.get("model")
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{run.config_path} has no [model] table", "it is damaged: restore the run's own run.toml"
        )
    return validate(ModelConfig, RawConfig(values, dict.fromkeys(values, str(run.config_path))))


def choose_checkpoint(run: RunDirectory, checkpoint: str) -> CheckpointInfo:
    """Return the checkpoint of a run by `best`, `last` or a step.

    Raises:
        CheckpointError, UsageError: as `load_model`.
    """
    if checkpoint not in ("best", "last") and not checkpoint.isdecimal():
        raise UsageError(f"checkpoint {checkpoint!r} is unknown", "choose best, last or a step")
    found = run.checkpoints()
    if checkpoint.isdecimal():
        chosen = next((info for info in found if str(info.step) == checkpoint.lstrip("0")), None)
        steps = ", ".join(str(info.step) for info in found)
        if chosen is None and found:
            raise CheckpointError(f"{run.path} has no checkpoint of step {checkpoint}", f"it has steps {steps}")
    else:
        chosen = run.best() if checkpoint == "best" else (found[-1] if found else None)
    if chosen is None:
        raise CheckpointError(f"{run.path} has no checkpoint", "train it first")
    return chosen


def warn_of_lost_best(run: RunDirectory, chosen: CheckpointInfo) -> None:
    """Warn if the best checkpoint of a finished run was removed and the best remaining one is worse."""
    try:
        summary = strict_json.parse(read_regular(run.path / "summary.json"))
        step, loss = int(summary["best_step"]), float(summary["val_loss"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    is_kept = any(info.step == step for info in run.checkpoints())
    if is_kept or chosen.val_loss is None or chosen.val_loss <= loss:
        return
    final = next((name for name in FINAL_WEIGHTS if (run.path / name).is_file()), SINGLE)
    checkpoints, elsewhere = shell_word(str(run.checkpoints_dir)), shell_word(f"{run.path}-checkpoints")
    say(
        f"warning: the best checkpoint of {run.path}, of step {step} with validation loss {loss:.4f}, is gone, and "
        f"step {chosen.step} with {chosen.val_loss:.4f} is used; {run.path}/{final} has the best weights, "
        f"and is used if there are no checkpoints: mv {checkpoints} {elsewhere}"
    )
