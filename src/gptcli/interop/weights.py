"""Weights in safetensors files, mapped by a family's table: theirs -> ours and ours -> theirs.

This module reads no pickles: a `.bin` or `.pt` can run code when it is opened.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gptcli import strict_json
from gptcli.checkpoint.header import require_sane_header
from gptcli.checkpoint.tensor_files import write_tensors
from gptcli.errors import CheckpointError
from gptcli.interop.family import Family, Mapped, Shape, compact
from gptcli.models.config import ModelConfig
from gptcli.models.estimate import parameter_count
from gptcli.storage import LARGE, SMALL, atomic_file, read_regular, storage_errors

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SPARE_NUMBERS = 2**20
"""A config may describe twice as many numbers as the files hold, and this many more. Such a model is cheap to build,
and the comparison by names then finds what is missing."""
LONGEST_LIST = 600
"""The largest number of characters of names in a message."""
FLOATS = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""The dtypes of weights: torch's -> the name in safetensors."""


class Weights(ABC):
    """The tensors of another program's model by their names there.

    Attributes:
        source: where they come from, for messages.
    """

    source: str

    @abstractmethod
    def names(self) -> Iterable[str]:
        """Return the names of all tensors."""

    @abstractmethod
    def look_at(self, name: str) -> tuple[Shape, str]:
        """Return a tensor's shape and safetensors' name of its dtype."""

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """Return a tensor."""

    def require_described(self, config: ModelConfig) -> None:
        """Refuse a config that describes far more weights than there are.

        Raises:
            CheckpointError: see the function of the same name.
        """
        names = list(self.names())
        numbers = sum(math.prod(self.look_at(name)[0]) for name in names)
        require_described(config, self.source, numbers, len(names))

    def describe(self, prefix: str) -> dict[str, tuple[str, Shape, str]]:
        """Return (name in the file, shape, safetensors dtype) by canonical name.

        A bare model (`GPT2Model`, `LlamaModel`) was saved without the prefix that the class with a head has.
        """
        bare = not any(name.startswith(prefix) for name in self.names())
        found = {}
        for name in self.names():
            canonical = prefix + name if bare and not name.startswith("lm_head.") else name
            found[canonical] = (name, *self.look_at(name))
        return found


class WeightFiles(Weights):
    """The tensors of a model directory, in one safetensors file or in the shards that an index names, mapped lazily.

    Raises:
        CheckpointError: there are no weights, a shard is missing or damaged, or the index leads out of the directory.
    """

    def __init__(self, directory: Path) -> None:
        self.source = str(directory)
        self.homes: dict[str, Any] = {}
        for path in weight_paths(directory):
            file = open_safetensors(path)
            self.homes.update(dict.fromkeys(file.keys(), file))

    def names(self) -> Iterable[str]:
        """Return the names of all tensors."""
        return self.homes

    def look_at(self, name: str) -> tuple[Shape, str]:
        """Return a tensor's shape and safetensors' name of its dtype."""
        entry = self.homes[name].get_slice(name)
        return tuple(entry.get_shape()), entry.get_dtype()

    def read(self, name: str) -> Tensor:
        """Return a tensor."""
        try:
            tensor: Tensor = self.homes[name].get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"{self.source}: tensor {name} cannot be read: {error}") from error
        return tensor


class LoadedWeights(Weights):
    """Tensors in memory."""

    def __init__(self, source: str, tensors: Mapping[str, Tensor]) -> None:
        self.source, self.tensors = source, tensors

    def names(self) -> Iterable[str]:
        """Return the names of all tensors."""
        return self.tensors

    def look_at(self, name: str) -> tuple[Shape, str]:
        """Return a tensor's shape and safetensors' name of its dtype."""
        tensor = self.tensors[name]
        return tuple(tensor.shape), FLOATS.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))

    def read(self, name: str) -> Tensor:
        """Return a tensor."""
        return self.tensors[name]


def weight_paths(directory: Path) -> list[Path]:
    """Return the safetensors files with the weights of the model in `directory`."""
    if (directory / SINGLE).is_file():
        return [directory / SINGLE]
    if (directory / INDEX).is_file():
        return shard_paths(directory / INDEX)
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in directory.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{directory} holds its weights only as a pickle ({pickles[0]}), which can run code when it is opened",
            "gptcli import reads it as weights only, and writes safetensors",
        )
    remedy = "if the model's weights are pickles, gptcli import reads them"
    raise CheckpointError(f"{directory} has no weights: neither {SINGLE} nor {INDEX}", remedy)


def shard_paths(index: Path, ending: str = ".safetensors") -> list[Path]:
    """Return the shards that an index names, which must be files beside it."""
    weight_map = read_json(index, LARGE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(n, str) for n in weight_map.values()):
        raise CheckpointError(f"{index} has no 'weight_map' from tensors to files", "fetch the model again")
    paths = []
    for name in sorted(set(weight_map.values())):
        if PureWindowsPath(name).name != name or not name.endswith(ending):
            kind = ending.removeprefix(".")
            raise CheckpointError(
                f"{index} names {shortened(name, 100)!r}, which is not a {kind} file beside it", "do not use it"
            )
        with storage_errors(index.parent / shortened(name, 100), "read"):
            is_there = (index.parent / name).is_file()
        if not is_there:
            raise CheckpointError(f"{index.parent} lacks {name}, which {index.name} names", "fetch the model again")
        paths.append(index.parent / name)
    return paths


def open_safetensors(path: Path) -> Any:
    """Open a safetensors file after checking its header."""
    with storage_errors(path, "read"):
        require_sane_header(path)
        try:
            return safe_open(path, framework="pt", device="cpu")
        except SafetensorError as error:
            raise CheckpointError(f"{path} is damaged: {error}", "fetch the model again") from error


def read_json(path: Path, most: int = SMALL) -> dict[str, Any]:
    """Read a JSON object from a regular file of at most `most` bytes.

    Raises:
        CheckpointError: it is not a JSON object.
        StorageError: it is not a regular file, is larger, or cannot be read.
    """
    with storage_errors(path, "read"):
        content = read_regular(path, most)
    try:
        value = strict_json.parse(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}", "fetch the model again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object", "fetch the model again")
    return value


def read_weights(
    weights: Weights, family: Family, mapping: Sequence[Mapped], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return all tensors of ours, on `device` in `dtype`, read one at a time so that memory holds the model once.

    Raises:
        CheckpointError: tensors are missing, unexpected, misshapen or not floating-point; the message names them.
    """
    found = weights.describe(family.prefix)
    expected = {name: shape for mapped in mapping for name, shape in mapped.theirs.items()}
    extra = [name for name in found.keys() - expected.keys() if not re.fullmatch(family.ignored, name)]
    head, embedding = tied_names(family)
    if head in extra and embedding in found and found[head][1:] == found[embedding][1:]:
        require_equal_head(weights, found[head][0], found[embedding][0])
        extra.remove(head)
    require_match(weights.source, family, expected, found, extra)
    state = {}
    for mapped in mapping:
        parts = [weights.read(found[name][0]) for name in mapped.theirs]
        parts = [part.T for part in parts] if mapped.transposed else parts
        shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
        whole = torch.empty(shape, dtype=dtype, device=device)
        for part, rows in zip(parts, torch.split(whole, [len(part) for part in parts]), strict=True):
            rows.copy_(part)
        state[mapped.ours] = reordered(mapped, whole)
    return state


def reordered(mapped: Mapped, whole: Tensor) -> Tensor:
    """Return a tensor whose rows are in their order with the rows in ours."""
    return whole if mapped.order is None else whole[torch.tensor(mapped.order(), device=whole.device)]


def split_tensor(mapped: Mapped, tensor: Tensor) -> dict[str, Tensor]:
    """Return the tensors of theirs that make up a tensor of ours, by name."""
    if mapped.order is not None:
        tensor = tensor[torch.tensor(mapped.order(), device=tensor.device).argsort()]
    tensor = tensor.T if mapped.transposed else tensor
    axis = tensor.dim() - 1 if mapped.transposed else 0
    parts = torch.split(tensor, [shape[axis] for shape in mapped.theirs.values()], dim=axis)
    return dict(zip(mapped.theirs, parts, strict=True))


def tied_names(family: Family) -> tuple[str, str]:
    """Return the family's names of the output projection and the token embedding."""
    modules = {rule.ours: rule.theirs[0] for rule in family.table}
    return f"{modules['head']}.weight", f"{modules['embedding']}.weight"


def require_described(config: ModelConfig, source: str, numbers: int, tensors: int) -> None:
    """Refuse a config that describes far more weights than the files hold, before a model of that size is built.

    Args:
        source: where the weights come from, for the message.
        numbers: the numbers in all files.
        tensors: the tensors in all files; a layer has several.

    Raises:
        CheckpointError: the config describes far more.
    """
    described = parameter_count(config)
    if described <= 2 * numbers + SPARE_NUMBERS and config.n_layer <= tensors:
        return
    raise CheckpointError(
        f"{source} describes a model of {described:,} weights in {config.n_layer:,} layers, but its files hold "
        f"{numbers:,} numbers in {tensors:,} tensors",
        "use the description and the weights of the same model",
    )


def require_equal_head(weights: Weights, head: str, embedding: str) -> None:
    """Refuse a stored head of a tied model that differs from the embedding."""
    if not torch.equal(weights.read(head), weights.read(embedding)):
        raise CheckpointError(
            f"{weights.source} ties {head} to {embedding}, but they differ",
            "if both were trained, set tie_word_embeddings to false in config.json",
        )


def require_match(
    source: str,
    family: Family,
    expected: Mapping[str, Shape],
    found: Mapping[str, tuple[str, Shape, str]],
    extra: Sequence[str],
) -> None:
    """Refuse weights that are not those that the family expects.

    Raises:
        CheckpointError: as `read_weights`.
    """
    wrong = []
    if missing := expected.keys() - found.keys():
        wrong.append(f"missing {shortened(compact(missing))}")
    if extra:
        wrong.append(f"unexpected {shortened(compact(extra))}")
    for name in sorted(expected.keys() & found.keys()):
        _, shape, dtype = found[name]
        if shape != expected[name]:
            wrong.append(f"{name} has shape {shape}, should be {expected[name]}")
        if dtype not in FLOATS.values():
            wrong.append(f"{name} is {dtype}, should be one of {', '.join(FLOATS.values())}")
    if wrong:
        what = shortened("; ".join(wrong), 2 * LONGEST_LIST)
        raise CheckpointError(f"{source} does not hold the {family.name} model that it describes: {what}")


def shortened(text: str, most: int = LONGEST_LIST) -> str:
    """Return the text or its beginning, since a foreign file may hold any number of names."""
    return text if len(text) <= most else f"{text[:most]}..."


def write_weights(path: Path, state: Mapping[str, Tensor], mapping: Sequence[Mapped]) -> None:
    """Write tensors of ours under their names, in their dtype; the file is whole or absent."""
    theirs = {
        name: part.contiguous()
        for mapped in mapping
        for name, part in split_tensor(mapped, state[mapped.ours].detach().cpu()).items()
    }
    with atomic_file(path) as temporary:
        write_tensors(temporary, theirs, {"format": "pt"})
