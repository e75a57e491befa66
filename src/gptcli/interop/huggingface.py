"""Hugging Face model directories, written from a model and read into one.

`transformers`, vLLM and llama.cpp's converter open what is written here, and what they write is read here. This module
handles no runs and no checkpoints, and never imports transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gptcli import strict_json
from gptcli.config import validate
from gptcli.config.load import with_origin
from gptcli.errors import CheckpointError, ConfigError
from gptcli.interop.auto_tokenizer import keeps_tokenizer, require_opened_alike
from gptcli.interop.families import family_named, family_of
from gptcli.interop.family import Family, ForeignConfig, Json, Shape
from gptcli.interop.generation_config import CONFIG, GENERATION_CONFIG, generation_config
from gptcli.interop.native import NATIVE
from gptcli.interop.weights import SINGLE, WeightFiles, Weights, read_json, read_weights, write_weights
from gptcli.manifest import require_unchanged
from gptcli.models.config import ModelConfig
from gptcli.models.gpt import GPT, build_model
from gptcli.nn.finite import require_finite
from gptcli.storage import storage_errors, write_atomic
from gptcli.tokenizer.files import WRITTEN_FILES
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer

MODEL_FILES = (CONFIG, GENERATION_CONFIG, SINGLE, *WRITTEN_FILES)
"""Files that `write_huggingface` writes."""


def write_huggingface(
    model: GPT, tokenizer: Tokenizer, directory: Path, *, native: bool = False, stop_ids: Collection[int] = ()
) -> str:
    """Write `model` and `tokenizer` to `directory`, which may exist; each file is replaced whole, config.json last.

    A model that no class of transformers computes is written in gptcli's own form, which `read_huggingface` reads too;
    so is every model if `native`, with its whole config.

    Args:
        stop_ids: tokens that end a text besides the one that the tokenizer names.

    Returns:
        Which transformers class opens it, or why none does, in words.

    Raises:
        CheckpointError: the tokenizer gives text other ids when it is read back.
        StorageError: the disk is full or the directory cannot be written.
    """
    directory = Path(directory)
    with storage_errors(directory, "create"):
        directory.mkdir(parents=True, exist_ok=True)
    spec = tokenizer.spec()
    family, reason = (NATIVE, "it is kept in gptcli's own form") if native else family_of(model.config, spec)
    config = family.written_as(model.config)
    shapes, state, dtype = tensor_shapes(config), model.state_dict(), model.embedding.weight.dtype
    # Weights that only the family's class has (GPT-2's biases) are zero.
    state |= {name: torch.zeros(shape, dtype=dtype) for name, shape in shapes.items() if name not in state}

    tokenizer.save(directory)
    write_weights(directory / SINGLE, state, family.map_tensors(config, shapes))
    write_json(directory / GENERATION_CONFIG, generation_config(tokenizer, stop_ids))
    write_json(directory / CONFIG, foreign_config(family, config, tokenizer, dtype, reason))
    if reason:
        return reason
    opened = f"transformers opens it as {family.architecture}"
    if keeps_tokenizer(family.name, spec):
        require_opened_alike(directory, tokenizer)
        return opened
    return (
        f"{opened}, and its tokenizer with PreTrainedTokenizerFast: AutoTokenizer would split text by the rules of "
        f"{family.name}'s own"
    )


def read_huggingface(
    directory: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    tokenizer: Tokenizer | None = None,
    open_weights: Callable[[Path], Weights] = WeightFiles,
) -> tuple[GPT, Tokenizer]:
    """Read the model (in evaluation mode) and tokenizer of a directory of a supported family or of gptcli's own form.

    Args:
        tokenizer: a tokenizer in place of that in the directory.
        open_weights: opens the tensors; only an explicit import passes a function that also reads pickles.

    Raises:
        CheckpointError: it is no model directory, incomplete or damaged, or its family or variant is not supported.
        TokenizerError: it has no tokenizer that can be read.
    """
    directory = Path(directory)
    require_unchanged(directory, CONFIG, GENERATION_CONFIG)
    foreign = read_foreign_config(directory)
    family = family_named(foreign)
    config = model_config(family, foreign)
    with verified_meanwhile(directory, SINGLE):
        weights = open_weights(directory)
        tokenizer = tokenizer or load_tokenizer(directory)
        require_embedded(tokenizer, config, directory)
        model = assembled(weights, family, config, torch.device(device), dtype)
    return model, tokenizer


@contextmanager
def verified_meanwhile(directory: Path, name: str) -> Iterator[None]:
    """Compare a large file with the directory's manifest in a thread while the block reads it.

    This costs hardly any time. What the block reads must not be used before the block has ended.

    Raises:
        CheckpointError: as `require_unchanged`, also in place of an error of the block about a damaged file.
    """
    with ThreadPoolExecutor(1, "verify") as thread:
        verified = thread.submit(require_unchanged, directory, name)
        try:
            yield
        finally:
            verified.result()


def assembled(
    weights: Weights, family: Family, config: ModelConfig, device: torch.device, dtype: torch.dtype = torch.float32
) -> GPT:
    """Return the model that `config` describes, in evaluation mode, with weights by the names of `family`.

    Raises:
        CheckpointError: the weights belong to another model or are not finite; the message names the tensors.
    """
    weights.require_described(config)
    state = read_weights(weights, family, family.map_tensors(config, tensor_shapes(config)), device, dtype)
    require_finite(state, weights.source, "the file is damaged or its training diverged: get the model again")
    model = build_model(config, device="meta", dtype=dtype)
    model.load_state_dict(state, assign=True)
    return model.eval()


def tensor_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Return the shape of every tensor of the model that `config` describes, by name."""
    return {name: tuple(tensor.shape) for name, tensor in build_model(config, device="meta").state_dict().items()}


def foreign_config(family: Family, config: ModelConfig, tokenizer: Tokenizer, dtype: torch.dtype, reason: str) -> Json:
    """Return the content of config.json. transformers 4 reads `torch_dtype`, transformers 5 `dtype`."""
    dtype_name = str(dtype).removeprefix("torch.")
    return {
        **({"architectures": [family.architecture]} if family.architecture else {"no_transformers_class": reason}),
        "model_type": family.name,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
        "dtype": dtype_name,
        "torch_dtype": dtype_name,
        "bos_token_id": tokenizer.framing.begin_id,
        "eos_token_id": tokenizer.framing.stop_id,
        "use_cache": True,
        **family.write_config(config),
    }


def read_foreign_config(directory: Path) -> ForeignConfig:
    """Read config.json.

    Raises:
        CheckpointError: it is missing, or describes a quantized model.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{directory} is not a model directory: it has no {CONFIG}", "check the path")
    foreign = ForeignConfig(str(path), read_json(path))
    if foreign.values.get("quantization_config") is not None:
        raise foreign.unsupported("a quantized model", "use the original weights")
    return foreign


def model_config(family: Family, foreign: ForeignConfig) -> ModelConfig:
    """Return the config of the model that a config.json describes."""
    values: dict[str, Any] = family.read_config(foreign)
    shared = {"vocab_size": foreign.need("vocab_size"), "init_std": foreign.get("initializer_range", 0.02)}
    return valid_config(shared | values, foreign.path)


def valid_config(values: Json, source: str, remedy: str = "") -> ModelConfig:
    """Return the config with the values of our slots that `source` describes.

    Raises:
        CheckpointError: a value is not possible.
    """
    try:
        return validate(ModelConfig, with_origin(values, source))
    except ConfigError as error:
        raise CheckpointError(str(error), remedy) from error


def require_embedded(tokenizer: Tokenizer, config: ModelConfig, source: Path | str) -> None:
    """Refuse a tokenizer with ids that have no embedding; special tokens added later may have such ids."""
    size = tokenizer.backend.get_vocab_size(with_added_tokens=False)
    special = [token_id for token_id in (tokenizer.bos_id, tokenizer.eos_id) if token_id is not None]
    if max(size - 1, *special, 0) >= config.vocab_size:
        raise CheckpointError(
            f"{source}: the tokenizer has more tokens than the model's {config.vocab_size:,} embeddings",
            "use the tokenizer and the weights of the same model",
        )


def write_json(path: Path, value: Json) -> None:
    """Write a JSON file, which is whole or absent."""
    write_atomic(path, strict_json.dumps(value, indent=2, ensure_ascii=False) + "\n")
