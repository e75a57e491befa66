"""Families of foreign models: the configs that each can hold, the keys of its config.json and its tensor names.

The tables of a family are read in both directions: ours -> theirs when writing, theirs -> ours when reading. This
module names no family (gpt2.py, llama.py and their siblings do) and opens no files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gptcli.errors import CheckpointError
from gptcli.models.config import LARGEST, WITHOUT_EFFECT, ModelConfig

Json = dict[str, Any]
Shape = tuple[int, ...]
LAYER = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)")
REQUIRED: Any = object()
"""The default of a key that must be there."""
RESOLVED = {
    "n_kv_head": "kv_heads",
    "head_dim": "head_width",
    "intermediate_size": "mlp_width",
    "attention_dropout": "attention_drop",
}
"""Slots that may be left open -> the property of ModelConfig that has their value."""
SIZES = frozenset(
    ("vocab_size", "context_length", "n_layer", "n_head", "n_kv_head", "n_embd", "head_dim", "intermediate_size")
)
ALWAYS_FREE = SIZES | WITHOUT_EFFECT | {"norm_eps", "tie_embeddings", "rope_theta", "window_pattern"}
"""Slots that no family restricts by a list of values; the checks of a family may restrict them."""


@dataclass(frozen=True)
class Key:
    """One row of a family's table of keys: a slot of ModelConfig and the key of config.json that holds it.

    Attributes:
        slot: the slot of ours.
        name: their key.
        default: what a missing key means. A key that is REQUIRED holds a whole number from 1 to `most`.
        most: the largest number of a required key.
        choices: their names of the slot's values -> ours. A value is written by the first of its names.
    """

    slot: str
    name: str
    default: Any = REQUIRED
    most: int = LARGEST
    choices: Mapping[str, str] = field(default_factory=dict)

    def read(self, foreign: ForeignConfig) -> Any:
        """Return the value of the slot."""
        if self.default is REQUIRED:
            return foreign.need(self.name, self.most)
        value = foreign.get(self.name, self.default)
        return foreign.choose(self.name, value, self.choices) if self.choices else value

    def write(self, config: ModelConfig) -> Any:
        """Return the value of the key."""
        value = getattr(config, RESOLVED.get(self.slot, self.slot))
        return next((theirs for theirs, ours in self.choices.items() if ours == value), value)


@dataclass(frozen=True)
class Rule:
    """One row of a family's table of tensors: a module of ours, and that of theirs or, if ours is fused, those.

    `{i}` is the layer in both. `.weight` and `.bias` are appended.

    Attributes:
        rows: returns the rows of each of theirs, of which a fused module is the concatenation.
        transposed: whether their weights are (in, out).
        order: returns the number of each row of ours among theirs, if it differs.
    """

    ours: str
    theirs: tuple[str, ...]
    rows: Callable[[ModelConfig], Sequence[int]] | None = None
    transposed: bool = False
    order: Callable[[ModelConfig], Sequence[int]] | None = None


@dataclass(frozen=True)
class Mapped:
    """One tensor of ours, and the shapes by name of the tensors of theirs that make it up.

    `order` is called only when the tensors exist, since a config alone may claim any number of rows.
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
        architecture: the transformers class that opens it, or None.
        table: the tensor names.
        keys: the keys of config.json.
        slots: for each slot of ModelConfig that the class restricts, the values that it can hold; the first one is that
            of a config.json that does not say. A slot named neither here nor in `free` must be at its default.
        free: slots that may have any value, beside ALWAYS_FREE.
        checks: functions that return further obstacles, in words.
        fixed: keys that are written with this value, and in which a config.json must not have another.
        more_keys: our config -> further keys of config.json.
        more_slots: config.json -> further slots; raises CheckpointError for what our slots cannot hold.
        prefix: what the names of the class with a head have before those of the bare model.
        ignored: pattern of the names of tensors that are no weights (masks and frequencies in older files).
        written_as: returns the config that computes the same function and that the class has exactly.
    """

    name: str
    architecture: str | None
    table: tuple[Rule, ...]
    keys: tuple[Key, ...] = ()
    slots: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    free: frozenset[str] = frozenset()
    checks: tuple[Callable[[ModelConfig], list[str]], ...] = ()
    fixed: Json = field(default_factory=dict)
    more_keys: Callable[[ModelConfig], Json] = lambda config: {}
    more_slots: Callable[[ForeignConfig], Json] = lambda foreign: {}
    prefix: str = ""
    ignored: str = r"(?!)"
    written_as: Callable[[ModelConfig], ModelConfig] = lambda config: config

    def obstacles(self, config: ModelConfig) -> list[str]:
        """Return why no model of this family computes what `config` describes, in words; empty if one does."""
        allowed = {
            slot: self.slots.get(slot, (info.default,))
            for slot, info in ModelConfig.model_fields.items()
            if slot not in ALWAYS_FREE | self.free
        }
        wrong = [
            f"{slot} must be {' or '.join(map(show, values))}, not {show(getattr(config, slot))}"
            for slot, values in allowed.items()
            if getattr(config, slot) not in values
        ]
        return wrong + [obstacle for check in self.checks for obstacle in check(config)]

    def write_config(self, config: ModelConfig) -> Json:
        """Return their config.json for `config`, without the keys that all families share."""
        return {key.name: key.write(config) for key in self.keys} | self.fixed | self.more_keys(config)

    def read_config(self, foreign: ForeignConfig) -> Json:
        """Return the values of our slots for their config.json.

        Raises:
            CheckpointError: a key is missing or wrong, or our slots cannot hold the model.
        """
        for name, value in self.fixed.items():
            foreign.require(name, value)
        usual = {slot: values[0] for slot, values in self.slots.items()}
        return usual | {key.slot: key.read(foreign) for key in self.keys} | self.more_slots(foreign)

    def map_tensors(self, config: ModelConfig, shapes: Mapping[str, Shape]) -> list[Mapped]:
        """Return the tensors of theirs for each of a model's tensors, given by name and shape."""
        rules = {rule.ours: rule for rule in self.table}
        return [map_tensor(rules, config, name, tuple(shape)) for name, shape in shapes.items()]


def map_tensor(rules: Mapping[str, Rule], config: ModelConfig, name: str, shape: Shape) -> Mapped:
    """Return the tensors of theirs for one tensor of ours."""
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
    """The values of another program's config.json, with errors that name the file and the key."""

    path: str
    values: Json

    def need(self, key: str, most: int = LARGEST) -> int:
        """Return a required whole number from 1 to `most`."""
        value = self.values.get(key)
        if type(value) is not int or not 1 <= value <= most:
            found = f"has {key} = {value!r}" if key in self.values else f"has no {key}"
            raise CheckpointError(f"{self.path} {found}", f"a whole number up to {most:,} is expected there")
        return value

    def get(self, key: str, default: Any) -> Any:
        """Return the value of a key, or the class's default; an explicit null is None.

        A value of another type than the default is refused, unless the default is None.
        """
        value = self.values.get(key, default)
        wanted = (int, float) if isinstance(default, float) else type(default)
        if value is not None and default is not None and not isinstance(value, wanted):
            raise CheckpointError(f"{self.path} has {key} = {value!r}", f"a {type(default).__name__} is expected there")
        return value

    def require(self, key: str, wanted: Any) -> None:
        """Refuse a value other than `wanted`, which a missing key or a null means too."""
        value = self.values.get(key)
        if value is not None and value != wanted:
            raise self.unsupported(f"{key} = {value!r}", f"only {wanted!r} is")

    def choose(self, key: str, value: Any, choices: Mapping[str, str]) -> str:
        """Return our name for one of theirs."""
        if value not in choices:
            raise self.unsupported(f"{key} = {value!r}", f"only {', '.join(map(repr, choices))} are")
        return choices[value]

    def unsupported(self, what: str, remedy: str = "") -> CheckpointError:
        """Return the error about a variant that is not supported."""
        return CheckpointError(f"{self.path}: {what} is not supported", remedy)


def show(value: Any) -> str:
    """Return a slot's value for people."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def compact(names: Iterable[str]) -> str:
    """Return all names in one line, with layers gathered: `h.[0-3].attn.weight, h.[1,3].mlp.weight, head.weight`."""
    layers: dict[str, list[int]] = {}
    for name in names:
        number = LAYER.search(name)
        layers.setdefault(LAYER.sub("{}", name, count=1), []).extend([int(number.group())] if number else [])
    return ", ".join(pattern.replace("{}", ranges(found)) for pattern, found in sorted(layers.items()))


def ranges(numbers: Sequence[int]) -> str:
    """Return `3` for one number, `[0-3]` for consecutive ones, `[1,3]` for others."""
    ordered = sorted(numbers)
    if len(ordered) < 2:
        return "".join(map(str, ordered))
    is_run = ordered == list(range(ordered[0], ordered[-1] + 1))
    return f"[{ordered[0]}-{ordered[-1]}]" if is_run else f"[{','.join(map(str, ordered))}]"
