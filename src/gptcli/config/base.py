"""The base of every config section."""

from __future__ import annotations

import typing
from types import UnionType
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator


class Config(BaseModel):
    """A frozen section of the configuration that refuses unknown keys and values of another type.

    Every field carries `Field(description=...)`: `gptcli config show`, the schema and docs/config.md are made from it.
    Sequences are declared `tuple[T, ...]`; TOML's arrays arrive as tuples.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, use_attribute_docstrings=True
    )

    @field_validator("*")
    @classmethod
    def fits_64_bits(cls, value: Any) -> Any:
        """TOML's whole numbers have 64 bits; Python reads larger ones, with which arithmetic may fail or never end."""
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError("whole numbers have 64 bits")
        return value


def union_members(annotation: Any) -> list[Any]:
    """The members of a (possibly annotated) union, or the annotation itself."""
    if typing.get_origin(annotation) is typing.Annotated:
        return union_members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        return [inner for member in typing.get_args(annotation) for inner in union_members(member)]
    return [annotation]
