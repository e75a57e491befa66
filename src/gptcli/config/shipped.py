"""The configs that a user names, by path or as a shipped one, and their settings with the --set values."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from gptcli.config.load import RawConfig, merge, parse_assignment, read_toml, without_leaf
from gptcli.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]
ALTERNATIVES = {"train.max_steps": "train.epochs", "train.epochs": "train.max_steps"}
"""Keys with the same purpose: setting one replaces the other if an earlier layer sets that."""


def shipped_root() -> Path:
    """Return the folder of shipped configs: inside an installed package, or at the top of a checkout."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parents[1] / "configs"


def shipped_configs() -> dict[str, Path]:
    """Return every shipped config by its name without the ending (`gpt2-124m`)."""
    return {path.stem: path for path in sorted(shipped_root().rglob("*.toml"))}


def find_config(name: str) -> Path:
    """Return `name` as a path if there is such a file, otherwise the shipped config of that name (`gpt2-124m`).

    Raises:
        ConfigError: it is neither; the message offers the nearest name.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = shipped_configs()
    stem = path.name.removesuffix(".toml")  # not Path.stem, which treats the end of gpt2-1.5b as a suffix
    if stem in known and len(path.parts) <= 2:
        return known[stem]
    close = difflib.get_close_matches(stem, known, n=1)
    remedy = f"did you mean {close[0]}?" if close else f"shipped are {', '.join(known)}"
    raise ConfigError(f"no config file {name}", remedy)


def read_settings(config_files: Iterable[str], assignments: Iterable[str], base: RawConfig | None = None) -> RawConfig:
    """Return the user's settings: `base`, then the config files (paths or shipped names), then the --set values.

    Raises:
        ConfigError: a file or a value cannot be read, or one file, or --set, sets both of two ALTERNATIVES.
    """
    layers = [read_toml(find_config(name)) for name in config_files]
    settings = base or RawConfig()
    for layer in (*layers, merge(*map(parse_assignment, assignments))):
        for key in layer.origins:
            if key in ALTERNATIVES:
                if ALTERNATIVES[key] in layer.origins:
                    raise ConfigError(
                        f"{layer.origins[key]}: {key} and {ALTERNATIVES[key]} both set the length of the training",
                        "leave one of them out",
                    )
                settings = without_leaf(settings, ALTERNATIVES[key])
        settings = merge(settings, layer)
    return settings
