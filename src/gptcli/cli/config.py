"""`gptcli config`."""

from __future__ import annotations

import typer

from gptcli import strict_json
from gptcli.cli.options import Assignments, ConfigFiles

config_app = typer.Typer(help="Show every configuration key, its value and its meaning.", no_args_is_help=True)


@config_app.command("show")
def show(
    config: ConfigFiles = None,
    assignments: Assignments = None,
) -> None:
    """Print the resolved configuration as TOML, each key under its meaning."""
    from gptcli.config import validate
    from gptcli.config.reference import annotated_toml
    from gptcli.config.shipped import read_settings
    from gptcli.train.config import RunConfig

    print(annotated_toml(validate(RunConfig, read_settings(config or (), assignments or ()))), end="")


@config_app.command("schema")
def schema() -> None:
    """Print the JSON Schema of a configuration file."""
    from gptcli.train.config import RunConfig

    print(strict_json.dumps(RunConfig.model_json_schema(), indent=2))


@config_app.command("list")
def list_shipped() -> None:
    """Print the names of the shipped configurations, for `-c NAME`."""
    from gptcli.config.shipped import shipped_configs, shipped_root

    for name, path in shipped_configs().items():
        print(f"{name:<20} {path.relative_to(shipped_root())}")
