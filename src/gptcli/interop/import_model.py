"""`gptcli import`: a model of another program, written as a model directory that every command reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from gptcli.checkpoint.run_directory import RunDirectory
from gptcli.errors import CheckpointError, UsageError
from gptcli.interop.base_reference import HUB_PREFIX
from gptcli.interop.generation_config import CONFIG, read_stop_ids
from gptcli.interop.huggingface import MODEL_FILES, read_huggingface, require_embedded, write_huggingface
from gptcli.interop.llama2c import read_llama2c
from gptcli.interop.load import fetch_from_hub
from gptcli.interop.nanogpt import read_nanogpt
from gptcli.interop.peft_config import ADAPTER_CONFIG
from gptcli.interop.pickles import read_pickle, weights_or_pickles
from gptcli.interop.staging import foreign_name, staged_directory
from gptcli.manifest import record
from gptcli.models.gpt import GPT
from gptcli.nn.finite import require_range
from gptcli.storage import open_regular, storage_errors
from gptcli.tokenizer.source import open_tokenizer
from gptcli.tokenizer.tokenizer import Tokenizer

PICKLE_BEGINNINGS = (b"PK", b"\x80")
"""The first bytes of torch's files: a zip or, in the older form, a pickle."""
WeightType = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[WeightType, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SOURCES = "give a Hugging Face directory, hf:NAME, nanoGPT's ckpt.pt or llama2.c's .bin"


@dataclass(frozen=True)
class ImportedModel:
    """A model that was written to `path`; `opened` says which transformers class opens it, or why none does."""

    path: Path
    parameters: int
    opened: str

    def as_dict(self) -> dict[str, Any]:
        """Return the path and the number of parameters for JSON."""
        return {"model": str(self.path), "parameters": self.parameters}

    def text(self) -> str:
        """Return a line that describes the model."""
        return f"{self.path}: {self.parameters:,} parameters, {self.opened}"


def import_model(source: str, out: Path, tokenizer: str | None = None, dtype: WeightType = "fp32") -> ImportedModel:
    """Read the model at `source` and write it to the directory `out`; no code in it is run.

    Args:
        tokenizer: a path or hf:NAME, for models without a tokenizer, or in place of theirs.
        dtype: the type of the written weights.

    Raises:
        CheckpointError: there is no such model, or it is damaged or not supported.
        TokenizerError: it has no tokenizer that can be read.
        UsageError: `out` is not empty, or the model needs a tokenizer to be named or has weights too large for `dtype`.
        StorageError: a file cannot be read or written.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is not a directory", "choose another --out")
    if out.is_dir() and (name := foreign_name(out)):
        raise UsageError(f"{out} is not empty (it holds {name!r})", "choose another --out")
    vocabulary = None if tokenizer is None else open_tokenizer(tokenizer)
    model, vocabulary, stop_ids = read_foreign(source, vocabulary)
    weights_type = DTYPES[dtype]
    require_range(model.state_dict(), weights_type, "choose --dtype fp32")
    with staged_directory(out, CONFIG) as folder:
        opened = write_huggingface(model.to(weights_type), vocabulary, folder, stop_ids=stop_ids)
        record(folder, MODEL_FILES)
    return ImportedModel(out, model.parameter_count(), opened)


def read_foreign(source: str, tokenizer: Tokenizer | None) -> tuple[GPT, Tokenizer, frozenset[int]]:
    """Return the model in fp32, its tokenizer or the given one, and the tokens that end a text by its files."""
    if source.startswith(HUB_PREFIX):
        return read_foreign_directory(fetch_from_hub(source.removeprefix(HUB_PREFIX), pickles=True), tokenizer)
    path = Path(source)
    if RunDirectory.is_run(path):
        raise UsageError(f"{path} is a run of gptcli", "every command reads it as it is")
    if (path / CONFIG).is_file():
        return read_foreign_directory(path, tokenizer)
    if (path / ADAPTER_CONFIG).is_file():
        raise UsageError(f"{path} is an adapter", "every command reads it as it is, with its base model")
    if path.is_dir():
        raise CheckpointError(f"{path} is not a model directory: it has no {CONFIG}", SOURCES)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist", SOURCES)
    if tokenizer is None:
        raise UsageError(f"{path} holds no tokenizer", "name it: --tokenizer PATH or hf:NAME")
    model = read_file(path)
    require_embedded(tokenizer, model.config, path)
    return model, tokenizer, frozenset()


def read_foreign_directory(directory: Path, tokenizer: Tokenizer | None) -> tuple[GPT, Tokenizer, frozenset[int]]:
    """Return what `read_foreign` does of a Hugging Face directory. The listed ids are those of its own tokenizer."""
    model, vocabulary = read_huggingface(directory, tokenizer=tokenizer, open_weights=weights_or_pickles)
    return model, vocabulary, read_stop_ids(directory) if tokenizer is None else frozenset()


def read_file(path: Path) -> GPT:
    """Return the model in a single file: nanoGPT's, a pickle, or llama2.c's."""
    with storage_errors(path, "read"), open_regular(path) as file:
        beginning = file.read(2)
    if beginning.startswith(PICKLE_BEGINNINGS):
        return read_nanogpt(read_pickle(path), str(path))
    if path.suffix != ".bin":
        raise CheckpointError(f"{path} is not a known kind of model", SOURCES)
    return read_llama2c(path)
