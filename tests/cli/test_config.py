"""`gptcli config` prints every key, resolved, with its meaning."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gptcli.cli.app import app
from gptcli.config import merge, read_toml, validate
from gptcli.config.shipped import shipped_configs
from gptcli.train.config import RunConfig


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["config", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_what_show_prints_is_a_config_that_resolves_to_itself() -> None:
    shown = run("show", "--set", "model.n_layer=9", "--set", "optim.name=sgd")
    values = tomllib.loads(shown)
    assert values["model"]["n_layer"] == 9 and values["optim"]["name"] == "sgd"
    described = shown.count("\n# ")
    assert described > 60


def test_the_schema_names_every_section() -> None:
    schema = json.loads(run("schema"))
    assert set(schema["properties"]) == set(RunConfig.model_fields)


def test_every_key_has_a_meaning() -> None:
    def missing(schema: dict) -> list[str]:
        return [
            f"{owner}.{key}"
            for owner, definition in {"top": schema, **schema["$defs"]}.items()
            for key, field in definition["properties"].items()
            if key != "name" and "description" not in field and "$ref" not in field and "discriminator" not in field
        ]

    assert missing(RunConfig.model_json_schema()) == []


@pytest.mark.parametrize("path", list(shipped_configs().values()), ids=lambda path: path.stem)
def test_every_shipped_config_is_valid_and_listed(path: Path) -> None:
    raw = read_toml(path)
    train = (
        {"tokens_per_step": validate_context(raw.values)}
        if "tokens_per_step" not in raw.values.get("train", {})
        else {}
    )
    validate(RunConfig, merge(raw, type(raw)({"train": train} if train else {})))
    assert path.stem in run("list")


def validate_context(values: dict) -> int:
    """A step of one sequence, for configs that leave the step to the zero-config rule."""
    return values.get("model", {}).get("context_length", 256)
