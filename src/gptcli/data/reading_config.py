"""Configuration of commands that only read texts: the keys of `data` that determine how, and no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gptcli.config import RawConfig, merge, parse_assignment, validate
from gptcli.data.config import READING_KEYS, DataConfig, DataSettings
from gptcli.errors import ConfigError


def reading_settings(assignments: Sequence[str]) -> RawConfig:
    """Return the values of `--set data.KEY=VALUE`.

    Raises:
        ConfigError: an assignment is malformed, or its key does not affect how texts are read.
    """
    given = merge(*map(parse_assignment, assignments))
    for name in given.origins:
        section, _, path = name.partition(".")
        key = path.split(".")[0]
        if section != "data" or (key not in READING_KEYS and key in DataConfig.model_fields):
            raise ConfigError(
                f"--set {name} does not apply to a command that only reads texts",
                f"use one of {', '.join(f'data.{key}' for key in READING_KEYS)}",
            )
    return given


def reading_config(given: RawConfig, of_run: Mapping[str, Any], origin: str = "") -> DataConfig:
    """Return the configuration for reading texts.

    Args:
        given: the user's values, which take precedence.
        of_run: the section `data` of a run's configuration.
        origin: the name of that configuration in errors.

    Raises:
        ConfigError: a key is unknown, or a value is wrong.
    """
    values = {key: value for key, value in of_run.items() if key in READING_KEYS}
    before = RawConfig({"data": values}, {f"data.{key}": origin for key in values})
    return validate(DataSettings, merge(before, given)).data
