"""`gptcli config`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

config_app = typer.Typer(help="Show every configuration key, its value and its meaning.", no_args_is_help=True)


@config_app.command("show")
def show(
    config: Annotated[
        list[str] | None,
        typer.Option("-c", "--config", help="A TOML file, or the name of a shipped one; later ones win."),
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one key, as in --set optim.lr=1e-3.")
    ] = None,
) -> None:
    """Print the resolved configuration as TOML, each key under its meaning."""
    from gptcli.config import merge, parse_assignment, read_toml, validate
    from gptcli.config.reference import annotated_toml
    from gptcli.config.shipped import find_config
    from gptcli.train.config import RunConfig

    parts = [read_toml(find_config(name)) for name in config or ()]
    parts += [parse_assignment(text) for text in assignments or ()]
    print(annotated_toml(validate(RunConfig, merge(*parts))), end="")


@config_app.command("schema")
def schema() -> None:
    """Print the JSON Schema of a configuration file."""
    from gptcli.train.config import RunConfig

    print(json.dumps(RunConfig.model_json_schema(), indent=2))


@config_app.command("list")
def list_shipped() -> None:
    """Print the names of the shipped configurations, for `-c NAME`."""
    from gptcli.config.shipped import shipped_configs, shipped_root

    for name, path in shipped_configs().items():
        print(f"{name:<20} {path.relative_to(shipped_root())}")
