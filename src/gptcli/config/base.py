"""The base of every config section."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen section of the configuration that refuses unknown keys and values of another type.

    Every field carries `Field(description=...)`: `gptcli config show`, the schema and docs/config.md are made from it.
    Sequences are declared `tuple[T, ...]`; TOML's arrays arrive as tuples.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, use_attribute_docstrings=True
    )
