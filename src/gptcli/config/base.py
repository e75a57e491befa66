"""The base of every config section."""

from __future__ import annotations

import typing
from types import UnionType
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

SMALLEST, LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127
"""The smallest normal and the largest 32-bit floating-point number, in which models and optimizers compute."""
LONGEST_NAME = 4096
"""Most characters of a name, a path or a pattern, which is Linux's limit for paths."""


class Config(BaseModel):
    """A frozen section of the configuration that refuses unknown keys, values of another type, and numbers and texts
    that no computation or file system can work with.

    Every field carries `Field(description=...)`: `gptcli config show`, the schema and docs/config.md are made from it.
    Sequences are declared `tuple[T, ...]`; TOML's arrays arrive as tuples.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    FREE_TEXTS: ClassVar[frozenset[str]] = frozenset()
    """The fields that hold a text of any length and any characters, and not a name, a path or a pattern."""

    @field_validator("*")
    @classmethod
    def is_usable(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse values that Python can hold but that no computation or file system supports."""
        for one in value if isinstance(value, tuple) else (value,):
            require_usable_number(one)
            if isinstance(one, str) and info.field_name not in cls.FREE_TEXTS:
                require_name(one)
        return value


def require_usable_number(value: Any) -> None:
    """Require a number that arithmetic in 64-bit integers and 32-bit floating point can represent.

    Raises:
        ValueError: it has more bits, or would be zero or infinite.
    """
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError("whole numbers have 64 bits")
    if isinstance(value, float) and value and not SMALLEST <= abs(value) <= LARGEST:
        size = "small" if abs(value) < SMALLEST else "large"
        reach = f"which reach from {SMALLEST:.2g} to {LARGEST:.2g}"
        raise ValueError(f"{value:g} is too {size} for 32-bit floating-point numbers, {reach}")


def require_name(value: str) -> None:
    """Require a text that can be a name, a path or a pattern.

    Raises:
        ValueError: it cannot.
    """
    if len(value) > LONGEST_NAME:
        raise ValueError(f"the text has {len(value):,} characters; at most {LONGEST_NAME:,} are possible")
    if "\0" in value:
        raise ValueError("the text holds a NUL character")


def union_members(annotation: Any) -> list[Any]:
    """Return the members of a (possibly annotated) union, or the annotation itself."""
    if typing.get_origin(annotation) is typing.Annotated:
        return union_members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        return [inner for member in typing.get_args(annotation) for inner in union_members(member)]
    return [annotation]
