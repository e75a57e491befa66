"""What a family of foreign models is: which of our configs it can hold, its config.json, its tensor names.

A family's table is read in both directions: ours -> theirs when writing, theirs -> ours when reading. This module
knows no family (they are in gpt2.py, llama.py and own.py) and no files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gptcli.errors import CheckpointError
from gptcli.models.config import LARGEST, ModelConfig

Json = dict[str, Any]
Shape = tuple[int, ...]
LAYER = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)")


def qkv_rows(config: ModelConfig) -> tuple[int, int, int]:
    """Rows of the query, key and value projections, in the order in which `attention.qkv` fuses them."""
    kv_rows = config.kv_heads * config.head_width
    return config.n_head * config.head_width, kv_rows, kv_rows


def gate_up_rows(config: ModelConfig) -> tuple[int, int]:
    """Rows of a gated MLP's gate and up projections, in the order in which `mlp.up` fuses them."""
    return config.mlp_width, config.mlp_width


def with_biases(config: ModelConfig) -> ModelConfig:
    """The config for a class that always has biases; a model trained without them is the one whose biases are zero."""
    return config.model_copy(update={"bias": True, "qkv_bias": None})


@dataclass(frozen=True)
class Rule:
    """One row of a family's table: a module of ours and the module (or modules, when ours is fused) of theirs.

    `{i}` stands for the layer in both. `.weight` and `.bias` are carried over. A fused module is the concatenation of
    theirs along the rows, whose numbers `rows` gives. `transposed` marks weights that they keep as (in, out). `order`
    gives for each row of ours the number that it has among theirs, where that differs.
    """

    ours: str
    theirs: tuple[str, ...]
    rows: Callable[[ModelConfig], Sequence[int]] | None = None
    transposed: bool = False
    order: Callable[[ModelConfig], Sequence[int]] | None = None


@dataclass(frozen=True)
class Mapped:
    """One tensor of ours, and by name and shape the tensors of theirs that it is made of.

    `order` is called once they are known to be there: a config alone may ask for any number of rows.
    """

    ours: str
    theirs: dict[str, Shape]
    transposed: bool
    order: Callable[[], Sequence[int]] | None = None


@dataclass(frozen=True)
class Family:
    """A class of models of another program, and how it corresponds to ours.

    Attributes:
        name: `model_type` in config.json.
        architecture: the transformers class that opens it.
        slots: for each slot of ModelConfig that the class restricts, the values that it can hold.
        shape_obstacles: what else, in words, keeps a config from being of this class.
        write_config: our config -> their config.json, without what all families share.
        read_config: their config.json -> the values of our config; CheckpointError for what our slots cannot hold.
        table: the tensor names.
        prefix: what the names of the class with a head have before those of the bare model.
        ignored: pattern of the names of tensors that are no weights (masks and frequencies that older files hold).
        written_as: the config that computes the same function and that the class has exactly.
    """

    name: str
    architecture: str | None
    slots: Mapping[str, tuple[Any, ...]]
    shape_obstacles: Callable[[ModelConfig], list[str]]
    write_config: Callable[[ModelConfig], Json]
    read_config: Callable[[ForeignConfig], Json]
    table: tuple[Rule, ...]
    prefix: str = ""
    ignored: str = r"(?!)"
    written_as: Callable[[ModelConfig], ModelConfig] = lambda config: config

    def obstacles(self, config: ModelConfig) -> list[str]:
        """Why no model of this family computes what `config` describes, in words; empty when one does."""
        wrong = [
            f"{slot} must be {' or '.join(map(show, allowed))}, not {show(getattr(config, slot))}"
            for slot, allowed in self.slots.items()
            if getattr(config, slot) not in allowed
        ]
        return wrong + self.shape_obstacles(config)

    def map_tensors(self, config: ModelConfig, shapes: Mapping[str, Shape]) -> list[Mapped]:
        """Apply the table to a model's tensors, given by name and shape."""
        rules = {rule.ours: rule for rule in self.table}
        return [map_tensor(rules, config, name, tuple(shape)) for name, shape in shapes.items()]


def map_tensor(rules: Mapping[str, Rule], config: ModelConfig, name: str, shape: Shape) -> Mapped:
    module, _, kind = name.rpartition(".")
    rule = rules[LAYER.sub("{i}", module)]
    layer = LAYER.search(module)
    heights = rule.rows(config) if rule.rows and len(rule.theirs) > 1 else (shape[0],)
    transposed = rule.transposed and len(shape) == 2
    theirs = {}
    for their_module, height in zip(rule.theirs, heights, strict=True):
        part = (height, *shape[1:])
        their_name = f"{their_module.format(i=layer.group() if layer else '')}.{kind}"
        theirs[their_name] = part[::-1] if transposed else part
    return Mapped(name, theirs, transposed, partial(rule.order, config) if rule.order else None)


@dataclass(frozen=True)
class ForeignConfig:
    """A config.json of another program: its values, and errors that name the file and the key."""

    path: str
    values: Json

    def need(self, key: str, most: int = LARGEST) -> int:
        """A whole number from 1 to `most` without which there is no model."""
        value = self.values.get(key)
        if type(value) is not int or not 1 <= value <= most:
            found = f"has {key} = {value!r}" if key in self.values else f"has no {key}"
            raise CheckpointError(f"{self.path} {found}", f"a whole number up to {most:,} is expected there")
        return value

    def get(self, key: str, default: Any) -> Any:
        """The value of a key, or the default that its class gives it; an explicit null is kept.

        A value of another type than a default that is not None is refused.
        """
        value = self.values.get(key, default)
        wanted = (int, float) if isinstance(default, float) else type(default)
        if value is not None and default is not None and not isinstance(value, wanted):
            raise CheckpointError(f"{self.path} has {key} = {value!r}", f"a {type(default).__name__} is expected there")
        return value

    def require(self, key: str, wanted: Any) -> None:
        """Refuse a model that departs from `wanted`, which is also what a missing key or a null means."""
        value = self.values.get(key)
        if value is not None and value != wanted:
            raise self.unsupported(f"{key} = {value!r}", f"only {wanted!r} is")

    def lacking(self, key: str) -> CheckpointError:
        return CheckpointError(f"{self.path} has no {key}", "fetch the model's config.json again")

    def choose(self, key: str, value: Any, choices: Mapping[str, str]) -> str:
        """Our name for one of theirs."""
        if value not in choices:
            raise self.unsupported(f"{key} = {value!r}", f"only {', '.join(map(repr, choices))} are")
        return choices[value]

    def unsupported(self, what: str, remedy: str = "") -> CheckpointError:
        return CheckpointError(f"{self.path}: {what} is not supported", remedy)


def show(value: Any) -> str:
    """A slot's value for people."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def compact(names: Iterable[str]) -> str:
    """All names in one line, layers gathered: `h.[0-3].attn.weight, h.[1,3].mlp.weight, head.weight`."""
    layers: dict[str, list[int]] = {}
    for name in names:
        number = LAYER.search(name)
        layers.setdefault(LAYER.sub("{}", name, count=1), []).extend([int(number.group())] if number else [])
    return ", ".join(pattern.replace("{}", ranges(found)) for pattern, found in sorted(layers.items()))


def ranges(numbers: Sequence[int]) -> str:
    """`3` for one number, `[0-3]` for a run of them, `[1,3]` for others."""
    ordered = sorted(numbers)
    if len(ordered) < 2:
        return "".join(map(str, ordered))
    is_run = ordered == list(range(ordered[0], ordered[-1] + 1))
    return f"[{ordered[0]}-{ordered[-1]}]" if is_run else f"[{','.join(map(str, ordered))}]"
