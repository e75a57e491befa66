"""The differences between two configurations, as dotted keys with both values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Difference(NamedTuple):
    """A dotted key whose value is `old` in one configuration and `new` in the other."""

    key: str
    old: Any
    new: Any


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[Difference]:
    """Yield every leaf in which two dumped configurations differ, in the order of `new`.

    A key that only one of them has is not compared: `old` may have been written by a version that did not know it.
    Lists and tuples of the same items are equal, as in a TOML file. Two tables with different `name`s are compared by
    their names only, since their other keys have different meanings.
    """
    if "name" in old and "name" in new and old["name"] != new["name"]:
        new = {"name": new["name"]}
    for name, value in new.items():
        if name not in old:
            continue
        before = old[name]
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            yield from differences(before, value, f"{prefix}{name}.")
        elif as_lists(before) != as_lists(value):
            yield Difference(f"{prefix}{name}", before, value)


def as_lists(value: Any) -> Any:
    """Return the value with every tuple in it as a list."""
    if isinstance(value, Mapping):
        return {key: as_lists(item) for key, item in value.items()}
    return [as_lists(item) for item in value] if isinstance(value, list | tuple) else value
