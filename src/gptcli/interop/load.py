"""Loading of a model from a run, a Hugging Face directory, an adapter of PEFT, or `hf:NAME`.

An adapter is opened with its base model, which is opened in the same way, and both are merged into one model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from gptcli.checkpoint.load import load_checkpoint
from gptcli.checkpoint.run_directory import CheckpointInfo, RunDirectory
from gptcli.console import shell_word
from gptcli.errors import CheckpointError, UsageError, first_line
from gptcli.interop.adapted import NO_ADAPTER, LoadedAdapter, Opening, adapter_of, with_adapter
from gptcli.interop.base_reference import HUB_PREFIX, BaseReference, tensors_sha256
from gptcli.interop.generation_config import CONFIG, read_stop_ids
from gptcli.interop.huggingface import read_huggingface
from gptcli.interop.peft import read_new_ids, read_peft
from gptcli.interop.peft_config import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_base
from gptcli.interop.run_model import choose_checkpoint, config_of, run_tokenizer, warn_of_lost_best
from gptcli.interop.weights import LoadedWeights
from gptcli.manifest import require_unchanged
from gptcli.models.adapter_config import NoAdapter
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model, model_with
from gptcli.models.vocabulary import add_tokens
from gptcli.nn.finite import require_finite
from gptcli.tokenizer.files import TOKENIZER_FILE
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer

HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
PICKLES = "pytorch_model*.bin"
MOST_BASES = 8
"""The length of a chain of adapters, each of which has the next one's model as its base."""
IN_FP32 = Opening(torch.device("cpu"), torch.float32, "best", merge=True)


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with its tokenizer.

    Attributes:
        run: the run that it was loaded from, or None.
        source: what the model is, for people.
        listed_stop_ids: the tokens that end a text by its generation_config.json.
        place: the absolute path of its directory, or hf:NAME@COMMIT.
        step: the step of the run's checkpoint that was loaded; None if none was.
        adapter: the adapter that is merged into it, or stands beside its matrices.
    """

    model: GPT
    tokenizer: Tokenizer
    run: RunDirectory | None
    source: str
    listed_stop_ids: frozenset[int] = frozenset()
    place: str = field(default="", kw_only=True)
    step: int | None = field(default=None, kw_only=True)
    adapter: LoadedAdapter = field(default=NO_ADAPTER, kw_only=True)

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end a text: those that are listed, and the one by which texts ended in training."""
        return self.listed_stop_ids | self.tokenizer.framing.stop_ids

    def as_base(self) -> BaseReference:
        """Return the name of this model, which was loaded in fp32, as the base of an adapter."""
        sha256 = self.adapter.sha256 or tensors_sha256(self.model.state_dict())
        return BaseReference(self.place, sha256, self.step)


def load_model(
    path: Path | str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    checkpoint: str = "best",
    merge: bool = True,
) -> LoadedModel:
    """Load the model at `path`, or `hf:NAME` or `hf:NAME@REVISION` from the hub (or its cache, when offline).

    Args:
        checkpoint: which checkpoint of a run: `best` (lowest validation loss), `last` or a step.
        merge: whether an adapter is added to the matrices of its base; otherwise it stands beside them, and `device`
            and `dtype` have no effect.

    Raises:
        CheckpointError: there is no such model, or it is damaged or not supported; or the base of an adapter is missing
            or another one.
        UsageError: `checkpoint` is none of these, or the model is not a run.
    """
    return load_as(str(path), Opening(torch.device(device), dtype, checkpoint, merge))


def load_as(path: str, opening: Opening) -> LoadedModel:
    """Load a model as `load_model` does."""
    directory = Path(path)
    if RunDirectory.is_run(directory):
        return load_run(RunDirectory.open(directory), opening)
    is_of_hub = path.startswith(HUB_PREFIX)
    if opening.checkpoint != "best" and (is_of_hub or is_model(directory)):
        raise UsageError(f"{path} is not a run and has no checkpoint {opening.checkpoint}", "leave out --checkpoint")
    if is_of_hub:
        repo = path.removeprefix(HUB_PREFIX)
        directory = fetch_from_hub(repo)
        return load_directory(directory, path, f"{HUB_PREFIX}{repo.partition('@')[0]}@{directory.name}", opening)
    if is_model(directory):
        what = "adapter" if (directory / ADAPTER_CONFIG).is_file() else "Hugging Face directory"
        return load_directory(directory, f"{what} {directory}", str(directory.absolute()), opening)
    if not directory.exists():
        raise CheckpointError(
            f"{path} does not exist", "give a run, a Hugging Face model directory, an adapter, or hf:NAME"
        )
    what = (
        f"has neither run.toml (a run) nor {CONFIG} (a Hugging Face model) nor {ADAPTER_CONFIG} (an adapter)"
        if directory.is_dir()
        else "is a file"
    )
    raise CheckpointError(f"{path} is not a model directory: it {what}", "give the directory that holds the model")


def is_model(directory: Path) -> bool:
    """Return whether a directory holds a run, a model or an adapter."""
    return RunDirectory.is_run(directory) or any((directory / name).is_file() for name in (CONFIG, ADAPTER_CONFIG))


def load_directory(directory: Path, source: str, place: str, opening: Opening) -> LoadedModel:
    """Load a Hugging Face directory, or an adapter in the form of PEFT."""
    if (directory / ADAPTER_CONFIG).is_file():
        return replace(load_peft(directory, read_base(directory), opening), source=source, place=place)
    model, tokenizer = read_huggingface(directory, opening.device, opening.dtype)
    return LoadedModel(model, tokenizer, None, source, read_stop_ids(directory), place=place)


def load_peft(directory: Path, reference: BaseReference, opening: Opening) -> LoadedModel:
    """Load an adapter in the form of PEFT with its base, and with the tokenizer beside it, or else the base's."""
    require_unchanged(directory, ADAPTER_CONFIG, ADAPTER_WEIGHTS)
    base, reference = open_base(reference, directory, opening)
    tokenizer = load_tokenizer(directory) if (directory / TOKENIZER_FILE).is_file() else base.tokenizer
    model, _ = with_rows(base, tokenizer)
    model, adapter = with_adapter(model, reference, read_new_ids(directory), partial(read_peft, directory))
    stop_ids = base.listed_stop_ids | read_stop_ids(directory)
    return LoadedModel(opening.finished(model), tokenizer, None, str(directory), stop_ids, adapter=adapter)


def with_rows(base: LoadedModel, tokenizer: Tokenizer) -> tuple[GPT, range]:
    """Return the base with rows for the tokens that `tokenizer` has beyond the base's, and their ids."""
    new_ids = range(base.tokenizer.vocab_size, tokenizer.vocab_size)
    if not new_ids:
        return base.model, new_ids
    grown = add_tokens(base.model.config, base.model.state_dict(), new_ids.start, new_ids.stop)
    return model_with(grown.config, grown.weights), new_ids


def open_base(base: BaseReference, of: Path, opening: Opening = IN_FP32) -> tuple[LoadedModel, BaseReference]:
    """Open the base of the adapter in the directory `of`; return it with its name and its hash.

    Raises:
        CheckpointError: it is missing, or its weights are not those that the adapter was trained on.
    """
    remedy = f"name the place that has it: gptcli checkpoint rebase {shell_word(of)} BASE"
    if not base.reference:
        raise CheckpointError(f"{of} does not name the base model of its adapter", remedy)
    if opening.depth >= MOST_BASES:
        raise CheckpointError(f"{of} is its own base model, or its chain of base models is too long", remedy)
    run = RunDirectory(Path(base.reference))
    if not base.reference.startswith(HUB_PREFIX) and not is_model(run.path):
        raise CheckpointError(f"the base model of {of} is not at {base.reference}", remedy)
    step = base.step if base.step is not None and run.checkpoint_path(base.step).is_dir() else None
    loaded = load_as(base.reference, opening.of_base(step))
    found = loaded.as_base()
    if base.sha256 and found.sha256 != base.sha256:
        raise CheckpointError(
            f"{base.reference} is not the base model of {of}: it has other weights than those that the adapter was "
            "trained on",
            remedy,
        )
    return loaded, found


def load_run(run: RunDirectory, opening: Opening) -> LoadedModel:
    """Load a checkpoint of a run, as its run.toml describes the model."""
    if not run.checkpoints() and any((run.path / name).is_file() for name in (CONFIG, ADAPTER_CONFIG)):
        return load_final(run, opening)
    info = choose_checkpoint(run, opening.checkpoint)
    if opening.checkpoint == "best":
        warn_of_lost_best(run, info)
    tokenizer = run_tokenizer(run)
    saved = load_checkpoint(info.path, parts=("model",))
    config, tensors = config_of(run, saved.state), saved.tensors["model"]
    remedy = f"the training diverged before step {info.step}; choose an earlier one: gptcli checkpoint list {run.path}"
    require_finite(tensors, info.path, remedy)
    own, adapter = adapter_of(saved.state.get("config", {}), str(info.path)), NO_ADAPTER
    stop_ids = read_stop_ids(run.path)
    if isinstance(own, NoAdapter):
        model = with_tensors(run, info, config, tensors, opening)
    else:
        base, reference = open_base(BaseReference.open(run.path), run.path, opening)
        model, new_ids = with_rows(base, tokenizer)
        model, adapter = with_adapter(with_config(model, config, run), reference, new_ids, lambda _: (own, tensors))
        model, stop_ids = opening.finished(model), stop_ids | base.listed_stop_ids
    loss = "" if info.val_loss is None else f", val loss {info.val_loss:.4f}"
    source, place = f"run {run.path}, step {info.step}{loss}", str(run.path.absolute())
    return LoadedModel(model, tokenizer, run, source, stop_ids, place=place, step=info.step, adapter=adapter)


def with_config(model: GPT, config: ModelConfig, run: RunDirectory) -> GPT:
    """Return the model that `config` describes with the weights of `model`.

    Raises:
        CheckpointError: they are of another shape.
    """
    try:
        return model_with(config, model.state_dict())
    except RuntimeError as error:
        raise CheckpointError(f"the base model of {run.path} has not the shape that its run.toml describes") from error


def with_tensors(
    run: RunDirectory, info: CheckpointInfo, config: ModelConfig, tensors: Mapping[str, Tensor], opening: Opening
) -> GPT:
    """Return the model that `config` describes with the tensors of a checkpoint.

    Raises:
        CheckpointError: the checkpoint holds another model.
    """
    LoadedWeights(str(info.path), tensors).require_described(config)
    model = build_model(config, device="meta", dtype=opening.dtype)
    moved = {name: tensor.to(opening.device, opening.dtype) for name, tensor in tensors.items()}
    try:
        model.load_state_dict(moved, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{info.path} does not hold the model that {run.config_path} describes: {error}"
        ) from error
    return model.eval()


def load_final(run: RunDirectory, opening: Opening) -> LoadedModel:
    """Load the final weights of a run that was copied without its checkpoints."""
    tokenizer, source, place = run_tokenizer(run), f"run {run.path}, its final weights", str(run.path.absolute())
    if (run.path / CONFIG).is_file():
        model, _ = read_huggingface(run.path, opening.device, opening.dtype, tokenizer=tokenizer)
        return LoadedModel(model, tokenizer, run, source, read_stop_ids(run.path), place=place)
    loaded = load_peft(run.path, BaseReference.open(run.path), opening)
    return replace(loaded, run=run, source=source, place=place)


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
