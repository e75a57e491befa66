"""The model that a training starts from, if not from random weights: its shape, tokenizer and weights.

A run keeps a copy of it (`RUN/init`, a model directory in our own form), so that resuming or replaying the run never
needs the source again. The run of an adapter keeps only its name and the hash of its weights (`RUN/base.json`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gptcli.checkpoint.run_directory import COPY, RunDirectory
from gptcli.config import RawConfig, merge, validate
from gptcli.config.load import merge_tables, with_origin
from gptcli.console import shell_word
from gptcli.data.config import DataConfig
from gptcli.data.examples.template import template_for_examples, with_template
from gptcli.data.sketch import NOTHING_KNOWN, SKETCH, TextSketch
from gptcli.errors import CheckpointError, ConfigError, UsageError
from gptcli.interop.base_reference import BASE_FILE, HUB_PREFIX, NO_BASE, BaseReference
from gptcli.interop.huggingface import MODEL_FILES, write_huggingface
from gptcli.interop.load import load_model, open_base
from gptcli.interop.run_model import run_tokenizer
from gptcli.manifest import record
from gptcli.models.config import WITHOUT_EFFECT, ModelConfig
from gptcli.models.gpt import GPT, model_with
from gptcli.models.vocabulary import add_tokens
from gptcli.storage import atomic_directory
from gptcli.tokenizer.files import TOKENIZER_FILE
from gptcli.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class InitialCheckpoint:
    """The model to start from; `source` names it in words."""

    reference: str
    source: str
    config: ModelConfig
    tokenizer: Tokenizer
    weights: Mapping[str, torch.Tensor]
    sketch: TextSketch = NOTHING_KNOWN
    """The sketch of the text that the weights were trained on, if they come from a run that has one."""
    stop_ids: frozenset[int] = frozenset()
    """The tokens that end a text of this model."""
    new_ids: range = range(0)
    """The tokens that the model was given; their rows are the mean of the others."""
    spare: int = 0
    """How many of them have rows that were in the embedding already, and which no token had."""
    base: BaseReference = NO_BASE
    """The name of the model as the base of an adapter; `NO_BASE` if its own weights are trained."""

    def with_tokenizer(self, tokenizer: Tokenizer) -> InitialCheckpoint:
        """Return the model for a tokenizer that adds tokens to its own."""
        known, wanted = self.tokenizer.vocab_size, tokenizer.vocab_size
        if wanted == known:
            return replace(self, tokenizer=tokenizer)
        grown = add_tokens(self.config, self.weights, known, wanted)
        as_grown = replace(self, config=grown.config, weights=grown.weights, spare=grown.spare)
        return replace(as_grown, tokenizer=tokenizer, new_ids=range(known, wanted))

    def for_examples(self, data: DataConfig) -> InitialCheckpoint:
        """Return the model with the chat template that renders its examples, and the special tokens that it writes.

        Raises:
            DataError, StorageError: the template cannot be read.
            TokenizerError: the tokenizer cannot have more tokens.
        """
        return self.with_tokenizer(with_template(self.tokenizer, template_for_examples(self.tokenizer, data)))

    def build(self, config: ModelConfig, device: torch.device) -> GPT:
        """Return the model that `config` describes, with these weights."""
        return model_with(config, {name: tensor.to(device) for name, tensor in self.weights.items()})


def reference_of(settings: RawConfig) -> str:
    """Return the value of `train.init_from`; empty for random weights."""
    train = settings.values.get("train")
    return (train.get("init_from") or "") if isinstance(train, Mapping) else ""


def has_adapter(settings: RawConfig) -> bool:
    """Return whether an adapter is trained instead of the model's own weights."""
    adapter = settings.values.get("adapter")
    return isinstance(adapter, Mapping) and adapter.get("name", "none") != "none"


def open_initial_checkpoint(settings: RawConfig, run: RunDirectory | None) -> InitialCheckpoint | None:
    """Return the model that the settings name, or None; that of a `run` from its copy, or from the base that it names.

    Raises:
        CheckpointError, TokenizerError: there is no such model, or it cannot be trained further.
    """
    reference = reference_of(settings)
    if not reference:
        return None
    copy = None if run is None else run.path / COPY
    base = NO_BASE
    if copy is not None and copy.is_dir():
        loaded, source = load_model(copy), f"{reference}, of which {copy} is a copy"
    elif run is not None and (run.path / BASE_FILE).is_file():
        loaded, base = open_base(BaseReference.open(run.path), run.path)
        source = loaded.source
    else:
        loaded = load_model(reference)
        base = loaded.as_base() if has_adapter(settings) else NO_BASE
        source = loaded.source
    config = loaded.model.config
    if loaded.tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{source}: its tokenizer has {loaded.tokenizer.vocab_size:,} tokens, its embedding only "
            f"{config.vocab_size:,}",
            "take a model that has a vector for each token",
        )
    trained = copy if copy is not None and copy.is_dir() else loaded.run and loaded.run.path
    sketch = TextSketch.open(trained / SKETCH) if trained else NOTHING_KNOWN
    weights, stop_ids = loaded.model.state_dict(), loaded.stop_ids
    start = InitialCheckpoint(reference, source, config, loaded.tokenizer, weights, sketch, stop_ids, base=base)
    if run is not None and base != NO_BASE and (run.path / TOKENIZER_FILE).is_file():
        return start.with_tokenizer(run_tokenizer(run))
    data = validate(DataConfig, with_origin(settings.values.get("data", {}), "[data]"))
    has_template = data.kind == "text" or (copy is not None and copy.is_dir())
    return start if has_template else start.for_examples(data)


def settings_from(start: InitialCheckpoint, user: RawConfig) -> RawConfig:
    """Return the user's settings with the shape and tokenizer of the model to start from.

    Raises:
        ConfigError: the user set one of them to another value.
    """
    require_same_shape(start, user)
    values = start.config.model_dump(mode="json", exclude_none=True)
    tokenizer = tokenizer_settings(start.reference)
    given = user.values.get("data", {}).get("tokenizer")
    if given is not None and read_tokenizer(given) != read_tokenizer(tokenizer):
        raise ConfigError(
            f"data.tokenizer is set, but {start.source} has a tokenizer of its own, on which its weights depend",
            "leave data.tokenizer out",
        )
    return merge(with_origin({"model": values, "data": {"tokenizer": tokenizer}}, start.source), user)


def require_same_shape(start: InitialCheckpoint, user: RawConfig) -> None:
    """Raise ConfigError where the user set the model's shape to another one."""
    config = start.config
    theirs = config.model_dump(mode="json") | {
        "n_kv_head": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.mlp_width,
        "qkv_bias": config.has_qkv_bias,
    }
    for key, value in user.values.get("model", {}).items():
        is_open = key in WITHOUT_EFFECT or (key == "vocab_size" and not value)
        if not is_open and merge_tables(theirs, {key: value}) != theirs:
            raise ConfigError(
                f"model.{key} is set to {value}, but the weights of {start.source} are for {theirs[key]}",
                f"leave it out; only {', '.join(sorted(WITHOUT_EFFECT))} may be set",
            )


def tokenizer_settings(reference: str) -> dict[str, Any]:
    """Return `[data.tokenizer]` for the tokenizer of the model that `reference` names."""
    if not reference.startswith(HUB_PREFIX):
        return {"name": "file", "path": reference}
    repo, _, revision = reference.removeprefix(HUB_PREFIX).partition("@")
    return {"name": "hf", "repo": repo} | ({"revision": revision} if revision else {})


def read_tokenizer(given: Any) -> Any:
    """Return the validated settings of a tokenizer."""
    return validate(DataConfig, with_origin({"tokenizer": given}, "data.tokenizer")).tokenizer


def keep_sketch(prepared: Path, start: InitialCheckpoint | None, run: RunDirectory) -> None:
    """Write the sketch of the texts that the run and `start` were trained on into the run.

    A corpus of tokens, prepared in the directory `prepared`, has no sketch, and nothing is written.
    """
    sketches = [TextSketch.open(prepared / SKETCH), start.sketch if start else NOTHING_KNOWN]
    if sketches[0].limit:
        TextSketch.joined(sketch for sketch in sketches if sketch.limit).save(run.path / SKETCH)


def keep_initial(start: InitialCheckpoint, config: ModelConfig, tokenizer: Tokenizer, run: RunDirectory) -> None:
    """Write the model before its first step, and the sketch of its text, into the run unless they are there already.

    The base of an adapter is not copied: only its name is written.
    """
    if start.base != NO_BASE:
        if not (run.path / BASE_FILE).exists():
            start.base.save(run.path)
    elif not (run.path / COPY).exists():
        with atomic_directory(run.path / COPY) as folder:
            model = start.build(config, torch.device("cpu"))
            write_huggingface(model, tokenizer, folder, native=True, stop_ids=start.stop_ids)
            if start.sketch.limit:
                start.sketch.save(folder / SKETCH)
            record(folder, (*MODEL_FILES, SKETCH))


def require_same_initial(settings: RawConfig, recorded: RawConfig, run: RunDirectory) -> None:
    """Raise UsageError where a resumed run would start from another model than before."""
    if reference_of(settings) != reference_of(recorded):
        began = reference_of(recorded) or "random weights"
        without_base = f"continue it by gptcli finetune --resume --out {shell_word(run.path)}"
        is_of_text = settings.values.get("data", {}).get("kind", "text") == "text"
        raise UsageError(
            f"{run.path} began from {began}, not from {reference_of(settings) or 'random weights'}",
            f"{'leave --init-from out' if is_of_text else without_base}, or choose another --out",
        )
