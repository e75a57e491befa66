"""PEFT's adapter_config.json, read and written, and the name of the base model in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gptcli import strict_json
from gptcli.errors import CheckpointError
from gptcli.interop.base_reference import HUB_PREFIX, BaseReference
from gptcli.interop.family import Json
from gptcli.interop.weights import open_safetensors, read_json
from gptcli.models.adapter_config import LoraConfig
from gptcli.storage import write_atomic

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE_SHA256 = "base_sha256"
"""The key of the hash of the base's weights in the metadata of ADAPTER_WEIGHTS; peft does not read the metadata."""
LARGEST_RANK = 4096
PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights with which the base's own weights stay as they are."""
UNDERSTOOD = frozenset(
    (
        *("peft_type", "base_model_name_or_path", "revision", "r", "lora_alpha", "lora_dropout", "rank_pattern"),
        *("alpha_pattern", "use_rslora", "use_dora", "bias", "init_lora_weights", "trainable_token_indices"),
    )
)
WITHOUT_EFFECT = frozenset(
    (
        *("auto_mapping", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out"),
        *("inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_ga_config"),
        *("megatron_config", "megatron_core", "peft_version", "qalora_group_size", "runtime_config", "target_modules"),
        "task_type",
    )
)
"""Keys that say how an adapter was made, or which tensors it has, as the file of the tensors does too."""
REMEDY = "merge it with peft (merge_and_unload), and use the merged model"


class PeftConfig(NamedTuple):
    """An adapter_config.json, as far as the tensors need it.

    alphas: alpha by a module's name or the end of it, where it differs.
    token_ids: the ids whose vectors are trained, by the last part of a module's name; "" is the embedding's.
    targets: the modules with an adapter, by name or the end of it; empty where only the tensors say which.
    """

    path: Path
    rank: int
    alpha: float
    dropout: float
    rslora: bool
    dora: bool
    alphas: Mapping[str, float]
    token_ids: Mapping[str, list[int]]
    targets: tuple[str, ...]

    def scaling(self, module: str, rank: int) -> float:
        """Return the factor of B A of a module, whose A has `rank` rows."""
        ends = (name for name in self.alphas if module == name or module.endswith(f".{name}"))
        alpha = self.alphas.get(next(ends, ""), self.alpha)
        return alpha / (rank**0.5 if self.rslora else rank)

    def names(self, module: str) -> bool:
        """Return whether a module is named as one with an adapter."""
        return any(module == name or module.endswith(f".{name}") for name in self.targets)

    def new_ids(self) -> list[int]:
        """Return all ids whose vectors are trained, in order."""
        return sorted({token_id for ids in self.token_ids.values() for token_id in ids})


def read_peft_config(folder: Path) -> PeftConfig:
    """Read the adapter_config.json of a LoRA adapter.

    Raises:
        CheckpointError: it is missing or damaged, or describes an adapter of another kind.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} is not an adapter: it has no {ADAPTER_CONFIG}", "check the path")
    values = read_json(path)
    require_plain_lora(values, path)
    rank = number(values, "r", 8, path)
    if rank != int(rank) or not 1 <= rank <= LARGEST_RANK:
        raise CheckpointError(f"{path} has r = {rank}", f"a whole number up to {LARGEST_RANK} is expected there")
    return PeftConfig(
        path=path,
        rank=int(rank),
        alpha=number(values, "lora_alpha", 8, path),
        dropout=number(values, "lora_dropout", 0.0, path),
        rslora=bool(values.get("use_rslora")),
        dora=bool(values.get("use_dora")),
        alphas=alpha_pattern(values, path),
        token_ids=token_ids(values.get("trainable_token_indices"), path),
        targets=target_names(values),
    )


def require_plain_lora(values: Json, path: Path) -> None:
    """Refuse adapters that compute something else than LoRA, or on another base than the one they name."""
    wanted = {"peft_type": ("LORA",), "bias": (None, "none"), "init_lora_weights": PLAIN_STARTS}
    for key, allowed in wanted.items():
        value = values.get(key)
        if value not in allowed:
            raise unsupported(path, key, value)
    for key in values.keys() - UNDERSTOOD - WITHOUT_EFFECT:
        if values[key]:
            raise unsupported(path, key, values[key])


def unsupported(path: Path, key: str, value: Any) -> CheckpointError:
    """Return the error about a variant that is not supported."""
    return CheckpointError(f"{path}: {key} = {strict_json.dumps(value)[:100]} is not supported", REMEDY)


def number(values: Json, key: str, default: float, path: Path) -> float:
    """Return a number that is not negative."""
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**63:
        raise CheckpointError(f"{path} has {key} = {strict_json.dumps(value)[:100]}", "a number is expected there")
    return value


def alpha_pattern(values: Json, path: Path) -> dict[str, float]:
    """Return alpha by a module's name or the end of it. Where peft allows patterns, only names are supported."""
    pattern = values.get("alpha_pattern") or {}
    if not isinstance(pattern, dict) or not all(re.fullmatch(r"\^?[\w.]+", name) for name in pattern):
        raise unsupported(path, "alpha_pattern", pattern)
    return {name.removeprefix("^"): number(pattern, name, 0, path) for name in pattern}


def target_names(values: Json) -> tuple[str, ...]:
    """Return `target_modules` if it is a list that holds in every layer; patterns are not evaluated."""
    targets = values.get("target_modules")
    is_restricted = any(values.get(key) for key in ("exclude_modules", "layers_to_transform", "layers_pattern"))
    if is_restricted or not isinstance(targets, list) or not all(isinstance(one, str) for one in targets):
        return ()
    return tuple(targets)


def token_ids(given: Any, path: Path) -> dict[str, list[int]]:
    """Return `trainable_token_indices`, a list for the embedding or a table of them by module."""
    if not given:
        return {}
    table = {"": given} if isinstance(given, list) else given
    is_table = isinstance(table, dict) and all(isinstance(ids, list) for ids in table.values())
    if not is_table or not all(type(one) is int and 0 <= one < 2**31 for ids in table.values() for one in ids):
        raise unsupported(path, "trainable_token_indices", given)
    return {module.rpartition(".")[2]: ids for module, ids in table.items()}


def peft_json(
    config: LoraConfig,
    base: BaseReference,
    targets: Sequence[str],
    parts: Mapping[str, int],
    ids: Mapping[str, Sequence[int]],
    transposed: bool,
) -> Json:
    """Return the content of adapter_config.json.

    Args:
        targets: the ends of the names of the modules with an adapter.
        parts: the number of our adapters in the one of a module, by the end of its name, where it is more than one.
        ids: the ids whose vectors are trained, by module.
        transposed: whether their matrices are (in, out).
    """
    growth = {module: count**0.5 if config.rslora else count for module, count in parts.items()}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        **named(base),
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": whole(config.alpha),
        "lora_dropout": config.dropout,
        "use_rslora": config.rslora,
        "use_dora": config.dora,
        "target_modules": list(targets),
        "rank_pattern": {module: config.rank * count for module, count in parts.items()},
        "alpha_pattern": {module: whole(config.alpha * factor) for module, factor in growth.items()},
        "trainable_token_indices": {module: list(of_module) for module, of_module in ids.items()} or None,
        "fan_in_fan_out": transposed,
        "bias": "none",
        "init_lora_weights": True,
        "modules_to_save": None,
    }


def whole(value: float) -> float:
    """Return a number without its decimal point, if it is whole, as peft writes it."""
    return int(value) if value == int(value) else value


def named(base: BaseReference) -> Json:
    """Return the keys that name a base."""
    name, revision = base.reference, ""
    if name.startswith(HUB_PREFIX):
        name, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
    return {"base_model_name_or_path": name or None, "revision": revision or None}


def read_base(folder: Path) -> BaseReference:
    """Return the base that an adapter names; an empty reference if it names none.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    values = read_json(folder / ADAPTER_CONFIG)
    name, revision = values.get("base_model_name_or_path"), values.get("revision")
    metadata = open_safetensors(folder / ADAPTER_WEIGHTS).metadata() or {}
    sha256 = metadata.get(BASE_SHA256, "")
    if not isinstance(name, str) or not name:
        return BaseReference("", sha256)
    is_bare = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) and not Path(name).exists()
    if not is_bare:
        return BaseReference(str(Path(name).absolute()), sha256)
    return BaseReference(f"{HUB_PREFIX}{name}@{revision}" if isinstance(revision, str) else HUB_PREFIX + name, sha256)


def name_base(folder: Path, base: BaseReference) -> None:
    """Write another place of the base into adapter_config.json."""
    write_peft_json(folder, read_json(folder / ADAPTER_CONFIG) | named(base))


def write_peft_json(folder: Path, values: Json) -> None:
    """Write adapter_config.json, which is whole or absent."""
    write_atomic(folder / ADAPTER_CONFIG, strict_json.dumps(values, indent=2, ensure_ascii=False) + "\n")
