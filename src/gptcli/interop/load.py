"""Loading of a model from a run, a Hugging Face directory, or `hf:NAME`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gptcli import strict_json
from gptcli.checkpoint.load import load_checkpoint
from gptcli.checkpoint.run_directory import CheckpointInfo, RunDirectory
from gptcli.config import RawConfig, read_toml, validate
from gptcli.config.names import with_present_keys
from gptcli.console import say, shell_word
from gptcli.errors import CheckpointError, UsageError, first_line
from gptcli.interop.generation_config import CONFIG, read_stop_ids
from gptcli.interop.huggingface import read_huggingface
from gptcli.interop.weights import LoadedWeights
from gptcli.manifest import read_manifest, require_unchanged
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.nn.finite import require_finite
from gptcli.storage import read_regular
from gptcli.tokenizer.framing import DocumentFraming
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer

HUB_PREFIX = "hf:"
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
PICKLES = "pytorch_model*.bin"


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with its tokenizer.

    Attributes:
        run: the run that it was loaded from, or None.
        source: what the model is, for people.
        listed_stop_ids: the tokens that end a text by its generation_config.json.
    """

    model: GPT
    tokenizer: Tokenizer
    run: RunDirectory | None
    source: str
    listed_stop_ids: frozenset[int] = frozenset()

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end a text: those that are listed, and the one by which texts ended in training."""
        return self.listed_stop_ids | self.tokenizer.framing.stop_ids


def load_model(
    path: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    checkpoint: str = "best",
) -> LoadedModel:
    """Load the model at `path`, or `hf:NAME` or `hf:NAME@REVISION` from the hub (or its cache, when offline).

    Args:
        checkpoint: which checkpoint of a run: `best` (lowest validation loss), `last` or a step.

    Raises:
        CheckpointError: there is no such model, or it is damaged or not supported.
        UsageError: `checkpoint` is none of these, or the model is not a run.
    """
    directory = Path(path)
    if RunDirectory.is_run(directory):
        return load_run(RunDirectory.open(directory), checkpoint, torch.device(device), dtype)
    is_of_hub = str(path).startswith(HUB_PREFIX)
    if checkpoint != "best" and (is_of_hub or (directory / CONFIG).is_file()):
        raise UsageError(f"{path} is not a run and has no checkpoint {checkpoint}", "leave out --checkpoint")
    if is_of_hub:
        directory = fetch_from_hub(str(path).removeprefix(HUB_PREFIX))
        return load_directory(directory, str(path), device, dtype)
    if (directory / CONFIG).is_file():
        return load_directory(directory, f"Hugging Face directory {directory}", device, dtype)
    if not directory.exists():
        raise CheckpointError(f"{path} does not exist", "give a run, a Hugging Face model directory, or hf:NAME")
    what = "has neither run.toml (a run) nor config.json (a Hugging Face model)" if directory.is_dir() else "is a file"
    raise CheckpointError(f"{path} is not a model directory: it {what}", "give the directory that holds the model")


def load_directory(directory: Path, source: str, device: torch.device | str, dtype: torch.dtype) -> LoadedModel:
    """Load a Hugging Face directory."""
    model, tokenizer = read_huggingface(directory, device, dtype)
    return LoadedModel(model, tokenizer, None, source, read_stop_ids(directory))


def load_run(run: RunDirectory, checkpoint: str, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """Load a checkpoint of a run, as its run.toml describes the model."""
    if not run.checkpoints() and (run.path / CONFIG).is_file():  # copied without its checkpoints
        model, tokenizer = read_huggingface(run.path, device, dtype, tokenizer=run_tokenizer(run))
        source = f"run {run.path}, its final weights"
        return LoadedModel(model, tokenizer, run, source, read_stop_ids(run.path))
    info = choose_checkpoint(run, checkpoint)
    if checkpoint == "best":
        warn_of_lost_best(run, info)
    tokenizer = run_tokenizer(run)
    saved = load_checkpoint(info.path, parts=("model",))
    config, tensors = config_of(run, saved.state), saved.tensors["model"]
    remedy = f"the training diverged before step {info.step}; choose an earlier one: gptcli checkpoint list {run.path}"
    require_finite(tensors, info.path, remedy)
    LoadedWeights(str(info.path), tensors).require_described(config)
    model = build_model(config, device="meta", dtype=dtype)
    try:
        model.load_state_dict({name: tensor.to(device, dtype) for name, tensor in tensors.items()}, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{info.path} does not hold the model that {run.config_path} describes: {error}"
        ) from error
    loss = "" if info.val_loss is None else f", val loss {info.val_loss:.4f}"
    source = f"run {run.path}, step {info.step}{loss}"
    return LoadedModel(model.eval(), tokenizer, run, source, read_stop_ids(run.path))


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
    checkpoints, elsewhere = shell_word(str(run.checkpoints_dir)), shell_word(f"{run.path}-checkpoints")
    say(
        f"warning: the best checkpoint of {run.path}, of step {step} with validation loss {loss:.4f}, is gone, and "
        f"step {chosen.step} with {chosen.val_loss:.4f} is used; {run.path}/model.safetensors has the best weights, "
        f"and is used if there are no checkpoints: mv {checkpoints} {elsewhere}"
    )


def fetch_from_hub(name: str, *, pickles: bool = False) -> Path:
    """Download the files of a model from the hub to its cache; HF_HUB_OFFLINE=1 only looks in the cache.

    Args:
        pickles: whether the weights may be pickles if there is no safetensors file.

    Raises:
        CheckpointError: no such model, no access, or no connection.
    """
    from huggingface_hub import snapshot_download

    repo, _, revision = name.partition("@")

    def fetch(patterns: list[str]) -> Path:
        return Path(
            snapshot_download(repo, revision=revision or None, allow_patterns=patterns, ignore_patterns=["*/*"])
        )

    try:
        found = fetch(HUB_FILES)
        return fetch([*HUB_FILES, PICKLES]) if pickles and not any(found.glob("*.safetensors")) else found
    except Exception as error:  # the library raises the errors of the HTTP client that its version uses
        remedy = "check the name, your access and the connection"
        raise CheckpointError(f"hf:{name} cannot be fetched: {first_line(error)}", remedy) from error
