"""Adapters in the files of PEFT: adapter_config.json and adapter_model.safetensors, read and written.

The names of tensors follow the table of the base's family. Where one matrix of ours is several of theirs, each of them
has the A and B of its part. Where theirs is fused too, it has the A of all parts one below the other, and their B as
blocks on a diagonal, so that its rank is the sum of the parts'. peft itself is never imported.
Shapes: I and O input and output width, r rank, P parts of a fused matrix.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gptcli.checkpoint.tensor_files import write_tensors
from gptcli.config import validate
from gptcli.config.load import with_origin
from gptcli.errors import CheckpointError
from gptcli.interop.base_reference import BaseReference
from gptcli.interop.families import family_of
from gptcli.interop.family import Family, Mapped, map_tensor
from gptcli.interop.peft_config import (
    ADAPTER_WEIGHTS,
    BASE_SHA256,
    LARGEST_RANK,
    REMEDY,
    PeftConfig,
    peft_json,
    read_peft_config,
    write_peft_json,
)
from gptcli.interop.weights import open_safetensors, reordered, tied_names
from gptcli.models.adapter_config import AdapterTargets, LoraConfig
from gptcli.models.adapters import DAMAGED, SUB_LAYERS, adapter_state, lora_modules
from gptcli.models.gpt import GPT
from gptcli.nn.finite import require_finite
from gptcli.nn.layers import Linear
from gptcli.nn.lora import LoraLinear, TrainedRows, row_lengths
from gptcli.storage import atomic_file

PREFIX = "base_model.model."
ENTRY = re.compile(r"(.+)\.(lora_A|lora_B|lora_magnitude_vector|token_adapter\.trainable_tokens_delta)(\.weight)?")
LENGTHS, ROWS = "lora_magnitude_vector", "token_adapter.trainable_tokens_delta"
Entries = dict[str, dict[str, Tensor]]
"""Their module -> the tensors of its adapter by kind, such as lora_A."""


class Place(NamedTuple):
    """A linear map of ours, and the modules of theirs that make it up."""

    name: str
    module: Linear
    mapped: Mapped

    @property
    def theirs(self) -> list[str]:
        """The names of their modules."""
        return [name.removesuffix(".weight") for name in self.mapped.theirs]

    @property
    def heights(self) -> list[int]:
        """The output width of each of theirs."""
        return [shape[-1] if self.mapped.transposed else shape[0] for shape in self.mapped.theirs.values()]

    @property
    def parts(self) -> list[int]:
        """The output width of each part of ours."""
        return [rows for _, rows in self.module.roles["weight"].parts] or [self.module.out_features]

    def in_their_order(self, rows: Tensor) -> Tensor:
        """Return a tensor with rows in our order with the rows in theirs."""
        return rows if self.mapped.order is None else rows[torch.tensor(self.mapped.order()).argsort()]


class LowRank(NamedTuple):
    """A (r, I) and B (O, r) of one part of a matrix, and their factor."""

    a: Tensor
    b: Tensor
    scaling: float


def places(model: GPT, family: Family) -> Iterator[Place]:
    """Yield the linear maps of the blocks."""
    rules = {rule.ours: rule for rule in family.table}
    for name, module in model.named_modules():
        if isinstance(module, Linear) and name.startswith("blocks."):
            yield Place(name, module, map_tensor(rules, model.config, f"{name}.weight", tuple(module.weight.shape)))


def write_peft(model: GPT, config: LoraConfig, base: BaseReference, folder: Path) -> None:
    """Write the adapter of `model` to a directory, adapter_config.json last; each file is whole or absent.

    Raises:
        CheckpointError: the adapter is not finite.
        StorageError: the disk is full or the directory cannot be written.
    """
    require_finite(adapter_state(model), "the adapter", DAMAGED)
    family, _ = family_of(model.config)
    adapted, all_places = dict(lora_modules(model)), list(places(model, family))
    tensors: dict[str, Tensor] = {}
    for place in all_places:
        if place.name in adapted:
            tensors |= split_adapter(place, adapted[place.name])
    taken = [name for place in all_places if place.name in adapted for name in place.theirs]
    others = [name for place in all_places if place.name not in adapted for name in place.theirs]
    counts = {name: len(place.parts) // len(place.theirs) for place in all_places for name in place.theirs}
    ends = {name: ending(name, others) for name in taken}
    ids = {}
    for ours, their_name in zip(("head", "embedding"), tied_names(family), strict=True):
        module, theirs = getattr(model, ours, None), their_name.removesuffix(".weight")
        if isinstance(module, TrainedRows):
            tensors[f"{theirs}.{ROWS}"] = module.new_rows
            ids[theirs.rpartition(".")[2]] = module.new_ids.tolist()
    values = peft_json(
        config,
        base,
        sorted(set(ends.values())),
        {ends[name]: counts[name] for name in taken if counts[name] > 1},
        ids,
        any(place.mapped.transposed for place in all_places),
    )
    ready = {PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_file(folder / ADAPTER_WEIGHTS) as temporary:
        write_tensors(temporary, ready, {"format": "pt", BASE_SHA256: base.sha256})
    write_peft_json(folder, values)


def ending(name: str, others: Sequence[str]) -> str:
    """Return the last part of a module's name, or the last two if one of the other modules ends in the same."""
    short = name.rpartition(".")[2]
    return ".".join(name.split(".")[-2:]) if any(other.endswith(f".{short}") for other in others) else short


def split_adapter(place: Place, module: LoraLinear) -> dict[str, Tensor]:
    """Return the tensors of their modules for one module of ours, in its dtype."""
    found: dict[str, Tensor] = {}
    blocks = place.in_their_order(torch.block_diag(*module.lora_b.detach().split(module.parts)))  # (O, P r)
    pieces = blocks.split(place.heights)
    width = module.lora_a.shape[0] // len(pieces)  # r, or P r where theirs is fused too
    for number, (name, b) in enumerate(zip(place.theirs, pieces, strict=True)):
        of_part = slice(number * width, (number + 1) * width)
        found |= {f"{name}.lora_A.weight": module.lora_a[of_part], f"{name}.lora_B.weight": b[:, of_part]}
    if module.lora_lengths is not None:
        lengths = place.in_their_order(module.lora_lengths.detach()).split(place.heights)
        found |= {f"{name}.{LENGTHS}": one for name, one in zip(place.theirs, lengths, strict=True)}
    return found


def read_new_ids(folder: Path) -> list[int]:
    """Return the ids whose vectors an adapter has trained: the `new_ids` of `add_adapter`.

    Raises:
        CheckpointError: adapter_config.json is missing or damaged, or not that of a supported adapter.
    """
    return read_peft_config(folder).new_ids()


def read_peft(folder: Path, base: GPT) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Read an adapter of `base`; return its form and the tensors that `load_adapter_state` takes.

    A matrix that it leaves alone, in the blocks' parts that it adapts, has A = B = 0, with which neither is ever
    trained. Matrices of lower rank than others have zeros in the same way.

    Raises:
        CheckpointError: a file is missing or damaged, the adapter is of an unsupported kind or of another base, or its
            tensors are not finite.
    """
    found = read_peft_config(folder)
    entries = read_entries(folder, found)
    family, _ = family_of(base.config)
    all_places = list(places(base, family))
    low_ranks: dict[str, list[LowRank | None]] = {}
    tensors: dict[str, Tensor] = {}
    for place in all_places:
        if missing := [name for name in place.theirs if found.names(name) and name not in entries]:
            raise CheckpointError(f"{folder} has no tensors for {missing[0]}", "write the adapter again")
        own = [entries.pop(name, {}) for name in place.theirs]
        low_ranks[place.name] = join_adapters(place, own, found)
        if found.dora:
            tensors[f"{place.name}.lora_lengths"] = join_lengths(place, own)
    tensors |= new_rows(entries, family, base, found)
    if entries:
        raise CheckpointError(
            f"{found.path.parent} has an adapter of {min(entries)}, which its base model does not have",
            "use the base model that it was trained on",
        )
    config = joint_config(found, low_ranks)
    for place in all_places:
        if place.name.split(".")[2] in SUB_LAYERS[config.targets]:
            tensors |= padded(place, low_ranks[place.name], config)
        else:
            tensors.pop(f"{place.name}.lora_lengths", None)
    return config, tensors


def read_entries(folder: Path, found: PeftConfig) -> Entries:
    """Read the tensors of an adapter, in fp32."""
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {ADAPTER_WEIGHTS}", "write the adapter again, as safetensors")
    file = open_safetensors(path)
    tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - the file is no mapping
    require_finite(tensors, path, DAMAGED)
    entries: Entries = {}
    for name, tensor in tensors.items():
        match = ENTRY.fullmatch(name.removeprefix(PREFIX))
        if not match:
            raise CheckpointError(f"{path} has {name}, which is no part of a LoRA adapter", REMEDY)
        entries.setdefault(match[1], {})[match[2]] = tensor
    kinds = {"lora_A", "lora_B"} | ({LENGTHS} if found.dora else set())
    for module, own in entries.items():
        if own.keys() not in (kinds, {ROWS}):
            raise CheckpointError(f"{path} has for {module} only {', '.join(sorted(own))}", "write the adapter again")
    return entries


def require_shape(name: str, tensor: Tensor, shape: tuple[int | None, ...]) -> None:
    """Refuse a tensor of another shape; a dimension of None may be any."""
    if len(tensor.shape) != len(shape) or any(b not in (a, None) for a, b in zip(tensor.shape, shape, strict=True)):
        wanted = ", ".join("r" if one is None else str(one) for one in shape)
        raise CheckpointError(
            f"the adapter's {name} has shape {tuple(tensor.shape)}, should be ({wanted})",
            "use the base model that it was trained on",
        )


def join_adapters(place: Place, own: Sequence[Mapping[str, Tensor]], found: PeftConfig) -> list[LowRank | None]:
    """Return the A and B of each part of a map of ours, from the adapters of their modules; None: it has none."""
    joined: list[LowRank | None] = []
    start = 0
    for name, height, entry in zip(place.theirs, place.heights, own, strict=True):
        parts = place.parts if len(own) == 1 else [height]
        if entry:
            a, b = entry["lora_A"], entry["lora_B"]
            require_shape(f"{name}.lora_A", a, (None, place.module.in_features))
            require_shape(f"{name}.lora_B", b, (height, len(a)))
            rows = torch.zeros(place.module.out_features, len(a))
            rows[start : start + height] = b
            ours = reordered(place.mapped, rows)[start : start + height]
            joined += [LowRank(*pair, found.scaling(name, len(a))) for pair in unfused(a, ours.split(parts), found)]
        else:
            joined += [None] * len(parts)
        start += height
    return joined


def unfused(a: Tensor, of_parts: Sequence[Tensor], found: PeftConfig) -> list[tuple[Tensor, Tensor]]:
    """Return (A, B) of each part from one A (R, I), and the part's rows of B (O, R).

    Where B is made of blocks on its diagonal, as `write_peft` makes it, each part has its own rows of A.
    """
    rank = found.rank
    blocks = [slice(part * rank, (part + 1) * rank) for part in range(len(of_parts))]
    own = [b[:, block] for b, block in zip(of_parts, blocks, strict=True)]
    if len(a) != rank * len(of_parts) or any(
        b.count_nonzero() != one.count_nonzero() for b, one in zip(of_parts, own, strict=True)
    ):
        return [(a, b) for b in of_parts]
    return [(a[block], b) for block, b in zip(blocks, own, strict=True)]


def join_lengths(place: Place, own: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Return the lengths of the rows of a map of ours: those of their modules, or of the base where they have none."""
    theirs = place.in_their_order(row_lengths(place.module.weight.detach().float())).split(place.heights)
    given = [entry.get(LENGTHS, of_base) for entry, of_base in zip(own, theirs, strict=True)]
    for name, height, lengths in zip(place.theirs, place.heights, given, strict=True):
        require_shape(f"{name}.{LENGTHS}", lengths, (height,))
    return reordered(place.mapped, torch.cat(given))


def joint_config(found: PeftConfig, low_ranks: Mapping[str, Sequence[LowRank | None]]) -> LoraConfig:
    """Return one form for all matrices: the largest rank, and the factor of all, or of a matrix without exceptions."""
    pairs = [(name, pair) for name, of_parts in low_ranks.items() for pair in of_parts if pair]
    rank = max((len(pair.a) for _, pair in pairs), default=found.rank)
    if rank > LARGEST_RANK:
        raise CheckpointError(f"{found.path.parent} has a rank of {rank}; at most {LARGEST_RANK} is supported", REMEDY)
    scalings = {pair.scaling for _, pair in pairs} or {found.scaling("", found.rank)}
    scaling = scalings.pop() if len(scalings) == 1 else found.scaling("", found.rank)
    is_plain = rank == found.rank and scaling == found.scaling("", rank)
    alpha = found.alpha if is_plain else scaling * (rank**0.5 if found.rslora else rank)
    layers = {name.split(".")[2] for name, _ in pairs}
    targets: AdapterTargets = next((one for one, names in SUB_LAYERS.items() if set(names) == layers), "all")
    return validate(
        LoraConfig,
        with_origin(
            {
                "rank": rank,
                "alpha": float(alpha),
                "dropout": float(found.dropout),
                "rslora": found.rslora,
                "dora": found.dora,
                "targets": targets,
            },
            str(found.path),
        ),
    )


def padded(place: Place, parts: Sequence[LowRank | None], config: LoraConfig) -> dict[str, Tensor]:
    """Return the tensors of a map of ours, with zeros up to the rank of all."""
    a = torch.zeros(len(parts), config.rank, place.module.in_features)
    b = torch.zeros(place.module.out_features, config.rank)
    for of_a, of_b, pair in zip(a, b.split(place.parts), parts, strict=True):
        if pair:
            of_a[: len(pair.a)] = pair.a
            of_b[:, : len(pair.a)] = (
                pair.b if pair.scaling == config.scaling else pair.b * (pair.scaling / config.scaling)
            )
    return {f"{place.name}.lora_a": a.flatten(0, 1), f"{place.name}.lora_b": b}


def new_rows(entries: Entries, family: Family, base: GPT, found: PeftConfig) -> dict[str, Tensor]:
    """Return the rows of new tokens, and remove them from `entries`; a table without any keeps those of the base."""
    ids, rows = found.new_ids(), {}
    modules = {"embedding": base.embedding} | ({} if base.config.tie_embeddings else {"head": base.head})
    if ids and ids[-1] >= base.config.vocab_size:
        raise CheckpointError(
            f"{found.path.parent} has the vector of token {ids[-1]}, but its base model has only "
            f"{base.config.vocab_size} vectors",
            "put the tokenizer that it was trained with beside it",
        )
    for (ours, module), their_name in zip(modules.items(), reversed(tied_names(family)), strict=False):
        theirs = their_name.removesuffix(".weight")
        given = found.token_ids.get(
            theirs.rpartition(".")[2], found.token_ids.get("", []) if ours == "embedding" else []
        )
        table = module.weight.detach().float()
        if given:
            delta = entries.pop(theirs, {}).get(ROWS, table[:0])
            require_shape(f"{theirs}.{ROWS}", delta, (len(given), base.config.n_embd))
            table = table.index_copy(0, torch.tensor(given), delta)
        if ids:
            rows[f"{ours}.new_rows"] = table[ids]
    return rows
