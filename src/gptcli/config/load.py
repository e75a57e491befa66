"""Reading, merging and validating configuration, with errors that name the key, where it was set, and the nearest key.

Files merge left to right, then each `--set key=value`. A table with a `name` (a tagged union such as `[optim]`) whose
name changes starts afresh, since the fields of one optimizer mean nothing to another.
"""

from __future__ import annotations

import difflib
import tomllib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import tomli_w
from pydantic_core import ErrorDetails

from gptcli.config.base import Config, union_members
from gptcli.config.names import key_named, with_present_keys
from gptcli.errors import ConfigError, StorageError
from gptcli.storage import UnsuitableFileError, read_named

MAX_CONFIG_BYTES = 1_000_000
MAX_DOTS = 1_000
"""Dots in a line of a config at most. The time that reading a dotted key takes grows with the square of its dots."""
MAX_DEPTH = 32
"""The deepest nesting of tables that is read. The tables of our own keys are three deep."""
LONGEST_SHOWN = 200
"""Characters of a wrong value that a message repeats."""
ConfigType = TypeVar("ConfigType", bound=Config)


@dataclass(frozen=True)
class RawConfig:
    """Nested values as they were written, and the place that set each leaf, by its dotted key."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)


def read_toml(path: Path) -> RawConfig:
    """Read one TOML file.

    Raises:
        StorageError: the file cannot be read.
        ConfigError: it is not TOML, or larger or deeper than any config is.
    """
    try:
        text = read_named(path, MAX_CONFIG_BYTES).decode()
        if any(line.count(".") > MAX_DOTS for line in text.splitlines()):
            raise ConfigError(f"{path}: a line has more than {MAX_DOTS:,} dots", "a config file is a short TOML file")
        values = tomllib.loads(text)
    except UnsuitableFileError as error:
        raise ConfigError(f"{path}: {error}", "a config file is a short TOML file") from error
    except OSError as error:
        raise StorageError(f"cannot read config {path}: {error.strerror}", "check the path") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: its values are nested too deeply", "a config file is a short TOML file") from error
    except ValueError as error:  # it is not TOML, not UTF-8, or has a number of thousands of digits
        raise ConfigError(f"{path} is not a TOML file: {str(error).partition(';')[0]}") from error
    return with_origin(with_present_keys(values), str(path))


def parse_assignment(text: str) -> RawConfig:
    """Return {"a": {"b": c}} for `a.b=c`; a value that is not TOML is a string."""
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise ConfigError(f"--set {text!r} is not an assignment", "write --set section.key=value")
    try:
        parsed = tomllib.loads(f"value = {value}")
        leaf = parsed["value"] if set(parsed) == {"value"} else value
    except (ValueError, RecursionError):
        leaf = bare_words(value.strip())
    nested: dict[str, Any] = {parts[-1]: leaf}
    for part in reversed(parts[:-1]):
        nested = {part: nested}
    return with_origin(nested, "--set")


def bare_words(value: str) -> Any:
    """Return a value that is not TOML: `[a, b]`, whose quotes a shell has removed, is an array, all else a text."""
    inside = value[1:-1].strip()
    if not (value.startswith("[") and value.endswith("]")) or not inside or any(c in inside for c in "[]{}=\"'"):
        return value
    return [word.strip() for word in inside.split(",") if word.strip()]


def with_origin(values: Mapping[str, Any], origin: str) -> RawConfig:
    """Mark every leaf of `values` as set by `origin`.

    Raises:
        ConfigError: the tables are nested deeper than MAX_DEPTH.
    """
    if is_deeper(values, MAX_DEPTH):
        raise ConfigError(f"{origin}: tables are nested more than {MAX_DEPTH} deep", "no key is as deep as that")
    return RawConfig(dict(values), {key: origin for key, _ in leaves_of(values)})


def is_deeper(values: Mapping[str, Any], depth: int) -> bool:
    """Return whether tables are nested more than `depth` deep."""
    return depth < 1 or any(is_deeper(value, depth - 1) for value in values.values() if isinstance(value, Mapping))


def leaves_of(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of everything in nested tables that is not a table itself."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def merge(*configs: RawConfig) -> RawConfig:
    """Merge left to right: later leaves replace earlier ones, and a table with a new `name` replaces the old table."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for config in configs:
        values = merge_tables(values, config.values)
        origins.update(config.origins)
    present = {key for key, _ in leaves_of(values)}
    return RawConfig(values, {key: origin for key, origin in origins.items() if key in present})


def merge_tables(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables merged, with the values of `new` in place of those of `old`."""
    if "name" in old and "name" in new and old["name"] != new["name"]:
        return dict(new)
    merged = dict(old)
    for key, value in new.items():
        both_tables = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge_tables(merged[key], value) if both_tables else value
    return merged


def without_leaf(config: RawConfig, key: str) -> RawConfig:
    """Return `config` without the leaf of that dotted name, or unchanged if it is not set."""
    if key not in config.origins:
        return config

    def without(table: Mapping[str, Any], parts: list[str]) -> dict[str, Any]:
        first, *rest = parts
        kept = {name: value for name, value in table.items() if name != first or rest}
        return kept | {first: without(table[first], rest)} if rest else kept

    origins = {name: origin for name, origin in config.origins.items() if name != key}
    return RawConfig(without(config.values, key.split(".")), origins)


def validate(kind: type[ConfigType], raw: RawConfig) -> ConfigType:
    """Build the frozen config, or raise one ConfigError that names the first wrong key, its place and the remedy."""
    raw = RawConfig(with_default_names(kind, raw.values), raw.origins)
    try:
        return kind.model_validate(arrays_as_tuples(raw.values))
    except pydantic.ValidationError as error:
        raise explain(kind, raw, error) from error


def check_keys(kind: type[Config], raw: RawConfig) -> None:
    """Refuse unknown keys and values of the wrong type or range, but no combination of values.

    The settings may be incomplete: a value that is still to be chosen may make a combination possible.
    """
    raw = RawConfig(with_default_names(kind, raw.values), raw.origins)
    try:
        kind.model_validate(arrays_as_tuples(raw.values))
    except pydantic.ValidationError as error:
        if not all(is_of_combination(detail) for detail in error.errors(include_url=False)):
            raise explain(kind, raw, error) from error


def is_of_combination(detail: ErrorDetails) -> bool:
    """Return whether an error concerns the combination of a table's values, not one value."""
    return detail["type"] == "value_error" and isinstance(detail["input"], Mapping)


def with_default_names(kind: type[Config], values: Mapping[str, Any]) -> dict[str, Any]:
    """Add the default name to every tagged-union table without one, so that `optim.lr=1` suffices."""
    named = dict(values)
    for key, value in values.items():
        if not isinstance(value, Mapping) or key not in kind.model_fields:
            continue
        information = kind.model_fields[key]
        default = information.get_default(call_default_factory=True)
        if "name" not in value and isinstance(default, Config) and "name" in type(default).model_fields:
            value = {"name": type(default).model_fields["name"].default, **value}
        member = member_named(information.annotation, value.get("name"))
        named[key] = with_default_names(member, value) if member else value
    return named


def arrays_as_tuples(value: Any) -> Any:
    """Return a value with every array in it as a tuple, since configs are frozen."""
    if isinstance(value, Mapping):
        return {key: arrays_as_tuples(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(arrays_as_tuples(item) for item in value)
    return value


def explain(kind: type[Config], raw: RawConfig, error: pydantic.ValidationError) -> ConfigError:
    """Return the first of pydantic's errors in one line: its place, the key, the mistake and the nearest valid key."""
    details = error.errors(include_url=False)
    # An unknown key is the likeliest cause of whatever else is wrong, a combination of values the least likely.
    severity = {"extra_forbidden": 0, "value_error": 2}
    first = min(details, key=lambda detail: severity.get(detail["type"], 1))
    path = key_path(first["loc"], raw.values)
    key = ".".join(path)
    place = raw.origins.get(key) or next((o for k, o in raw.origins.items() if k.startswith(f"{key}.")), "")
    if not key and len(origins := set(raw.origins.values())) == 1:
        (place,) = origins
    where = f"{place}: " if place else ""
    if first["type"] == "extra_forbidden":
        elsewhere = key_named(kind, path[-1])
        if elsewhere is not None and elsewhere != key:
            return ConfigError(f"{where}unknown key {key!r}", f"did you mean {elsewhere!r}?")
        known = known_keys(kind, path[:-1], raw.values)
        return ConfigError(f"{where}unknown key {key!r}", suggest(path[-1], path[:-1], known))
    if first["type"].startswith("union_tag"):
        expected = first.get("ctx", {}).get("expected_tags", "")
        return ConfigError(f"{where}{key}.name must be one of {expected}" if key else f"{where}{first['msg']}")
    if first["type"] == "value_error":
        message = str(first["ctx"]["error"])
        return ConfigError(f"{where}{key}: {message}" if key else f"{where}{message}")
    given = first["input"]
    if first["type"] == "string_unicode":
        return ConfigError(f"{where}{key}: {shortened(repr(given))} has bytes that are not UTF-8", "rename the file")
    shown = "" if isinstance(given, Mapping) else f", not {shortened(repr(given))}"
    return ConfigError(f"{where}{key}: {lower_first(first['msg'])}{shown}")


def key_path(location: tuple[int | str, ...], values: Mapping[str, Any]) -> list[str]:
    """Return pydantic's location without the union tags between the keys."""
    path: list[str] = []
    current: Any = values
    for position, part in enumerate(location):
        is_last = position == len(location) - 1
        is_tag = isinstance(current, Mapping) and part not in current and (not is_last or current.get("name") == part)
        if is_tag:
            continue
        path.append(str(part))
        current = current.get(part) if isinstance(current, Mapping) else None
    return path


def known_keys(kind: Any, path: list[str], values: Mapping[str, Any]) -> list[str]:
    """Return the valid keys of the section at `path`, in tagged unions those of the given `name`."""
    section = kind
    current: Any = values
    for part in path:
        current = current.get(part, {}) if isinstance(current, Mapping) else {}
        section = section.model_fields[part].annotation if part in getattr(section, "model_fields", {}) else None
        section = member_named(section, current.get("name") if isinstance(current, Mapping) else None)
    return list(getattr(section, "model_fields", {}))


def member_named(annotation: Any, name: str | None) -> Any:
    """Return the config class of `annotation`; of a union, the member with the given `name`."""
    members = [m for m in union_members(annotation) if isinstance(m, type) and issubclass(m, Config)]
    for member in members:
        tag = member.model_fields.get("name")
        if tag is not None and name in typing.get_args(tag.annotation):
            return member
    return members[0] if members else None


def suggest(wrong: str, path: list[str], known: list[str]) -> str:
    """Return a hint to the known key that is most similar to a wrong one, or an empty text."""
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    prefix = "".join(f"{part}." for part in path)
    if close:
        return f"did you mean {prefix + close[0]!r}?"
    section = ".".join(path) or "the top level"
    return f"the keys of {section} are {', '.join(known)}" if known else f"{section} has no keys"


def lower_first(text: str) -> str:
    """Return the text with its first letter in lower case."""
    return text[:1].lower() + text[1:]


def dump_toml(config: Config) -> str:
    """Return the config as TOML without the keys whose value is None, since TOML has no null."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def shortened(text: str) -> str:
    """Return a value for a message of one line, without the middle of a long one."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN // 2]}...{text[-LONGEST_SHOWN // 4 :]}"
