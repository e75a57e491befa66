"""`gptcli config`."""

from __future__ import annotations

import typer

from gptcli import strict_json
from gptcli.cli.help_page import Command
from gptcli.cli.options import Assignments, ConfigFiles

config_app = typer.Typer(help="Show the configuration keys and the shipped files.", no_args_is_help=True)


@config_app.command("show", cls=Command)
def show(config: ConfigFiles = None, assignments: Assignments = None) -> None:
    """Print the configuration as TOML, with a comment on each key.

    Examples:
        gptcli config show
        gptcli config show -c gpt2-124m --set optim.lr=1e-3
    """
    from gptcli.config import validate
    from gptcli.config.reference import annotated_toml
    from gptcli.config.shipped import read_settings
    from gptcli.train.config import RunConfig

    print(annotated_toml(validate(RunConfig, read_settings(config or (), assignments or ()))), end="")


@config_app.command("schema", cls=Command)
def schema() -> None:
    """Print the JSON Schema of a configuration file.

    Examples:
        gptcli config schema
        gptcli config schema > gptcli.schema.json
    """
    from gptcli.train.config import RunConfig

    print(strict_json.dumps(RunConfig.model_json_schema(), indent=2))


@config_app.command("list", cls=Command)
def list_shipped() -> None:
    """List the shipped configurations, for use with `-c NAME`.

    Examples:
        gptcli config list
        gptcli train book.txt -c demo
    """
    from gptcli.config.shipped import shipped_configs, shipped_root

    for name, path in shipped_configs().items():
        print(f"{name:<20} {path.relative_to(shipped_root())}")
