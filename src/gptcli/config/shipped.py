"""Finding a config: a path that the user gives, or the name of one that gptcli ships."""

from __future__ import annotations

import difflib
from pathlib import Path

from gptcli.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]


def shipped_root() -> Path:
    """The folder of shipped configs: inside an installed package, or at the top of a checkout."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parents[1] / "configs"


def shipped_configs() -> dict[str, Path]:
    """Every shipped config by its name without the ending (`gpt2-124m`)."""
    return {path.stem: path for path in sorted(shipped_root().rglob("*.toml"))}


def find_config(name: str) -> Path:
    """`name` as a path if there is such a file, otherwise the shipped config of that name (`gpt2-124m`).

    Raises:
        ConfigError: it is neither; the nearest name is offered.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = shipped_configs()
    if path.suffix in ("", ".toml") and (path.stem in known) and len(path.parts) <= 2:
        return known[path.stem]
    close = difflib.get_close_matches(path.stem, known, n=1)
    remedy = f"did you mean {close[0]}?" if close else f"shipped are {', '.join(known)}"
    raise ConfigError(f"no config file {name}", remedy)
