"""Merging and validating configuration, and what a user's mistake is answered with."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from gptcli.config import Config, check_keys, dump_toml, merge, parse_assignment, read_toml, validate
from gptcli.config.reference import annotated_toml
from gptcli.config.shipped import find_config, shipped_configs
from gptcli.errors import ConfigError, StorageError
from gptcli.train.config import RunConfig


class Slow(Config):
    """Slow."""

    name: Literal["slow"] = "slow"
    patience: float = 0.5


class Fast(Config):
    """Fast."""

    name: Literal["fast"] = "fast"
    momentum: float = 0.9
    betas: tuple[float, ...] = (0.9, 0.95)


class Inner(Config):
    """Inner."""

    n_layer: int = Field(2, ge=1)
    """How many layers."""
    label: str | None = None
    """A label."""

    @model_validator(mode="after")
    def superstition(self) -> Inner:
        if self.n_layer == 13:
            raise ValueError("unlucky")
        return self


class Outer(Config):
    """Outer."""

    optim: Annotated[Slow | Fast, Field(discriminator="name")] = Fast()
    model: Inner = Inner()


def resolve(*assignments: str) -> Outer:
    return validate(Outer, merge(*(parse_assignment(text) for text in assignments)))


def test_assignments_are_read_as_toml_and_otherwise_as_strings() -> None:
    assert resolve("model.n_layer=7").model.n_layer == 7
    assert resolve("model.label=plain text").model.label == "plain text"
    assert resolve('model.label="3"').model.label == "3"
    assert resolve("optim.betas=[0.8, 0.9]").optim.betas == (0.8, 0.9)
    assert resolve("optim.momentum=3e-4").optim.momentum == 3e-4


def test_later_values_win_and_tables_merge() -> None:
    config = resolve("model.n_layer=3", "model.label=a", "model.n_layer=4")
    assert (config.model.n_layer, config.model.label) == (4, "a")


def test_a_union_table_without_a_name_belongs_to_the_default_member() -> None:
    assert resolve("optim.momentum=0.5").optim == Fast(momentum=0.5)


def test_a_union_table_whose_name_changes_starts_afresh() -> None:
    assert resolve("optim.name=fast", "optim.momentum=0.5", "optim.name=slow").optim == Slow()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("model.n_layr=3", "--set: unknown key 'model.n_layr'; did you mean 'model.n_layer'?"),
        ("modle.n_layer=3", "did you mean 'model'?"),
        ("optim.momentun=1.0", "did you mean 'optim.momentum'?"),
        ("optim.name=quick", "optim.name must be one of 'slow', 'fast'"),
        ("model.n_layer=many", "model.n_layer: input should be a valid integer, not 'many'"),
        ("model.n_layer=0", "model.n_layer: input should be greater than or equal to 1, not 0"),
        ("model=3", "model: input should be"),
        ("novalue", "is not an assignment; write --set section.key=value"),
    ],
)
def test_a_mistake_is_one_line_with_the_key_and_the_remedy(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(assignment)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_keys_are_checked_before_the_combination_of_values_is_known() -> None:
    check_keys(Outer, parse_assignment("model.n_layer=13"))
    with pytest.raises(ConfigError, match="unlucky"):
        resolve("model.n_layer=13")
    for mistake in ("model.n_layer=many", "model.n_layers=3"):
        with pytest.raises(ConfigError, match=r"model\.n_layer"):
            check_keys(Outer, parse_assignment(mistake))


def test_an_error_names_the_file_that_set_the_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[model]\nn_layers = 3\n")
    with pytest.raises(ConfigError, match=r"mine\.toml: unknown key 'model.n_layers'"):
        validate(Outer, read_toml(path))


@pytest.mark.parametrize("content", [b"[model\n", b"\xff\xfe", b"a = " + b"[" * 100_000])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        read_toml(path)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.toml"
    path.write_bytes(b"# " + b"x" * 10_000_000)
    with pytest.raises(ConfigError, match="larger than"):
        read_toml(path)


def test_a_file_without_an_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="larger than"):
        read_toml(Path("/dev/zero"))


def test_a_missing_file_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="check the path"):
        read_toml(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("[model]\nactivation_checkpointing = true", "full"),
        ("[model]\nactivation_checkpointing = false", "none"),
        ('[model]\nactivation_checkpointing = true\n[train]\nactivation_checkpointing = "none"', "full"),
        ('[model]\nactivation_checkpointing = true\n[train]\nactivation_checkpointing = "selective"', "selective"),
        ('[model]\nactivation_checkpointing = false\n[train]\nactivation_checkpointing = "full"', "full"),
    ],
)
def test_the_models_key_for_checkpointing_of_earlier_versions_is_read_as_that_of_the_training(
    written: str, meant: str, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text(written)
    read = read_toml(tmp_path / "run.toml")
    assert validate(RunConfig, read).train.activation_checkpointing == meant
    with pytest.raises(ConfigError, match=r"did you mean 'train\.activation_checkpointing'"):
        validate(RunConfig, parse_assignment("model.activation_checkpointing=true"))


def test_dumped_and_annotated_toml_read_back_as_the_same_config() -> None:
    config = resolve("optim.name=slow", "model.n_layer=5", "model.label=x # y")
    for text in (dump_toml(config), annotated_toml(config)):
        values = tomllib.loads(text)
        assert Outer.model_validate(values) == config
    assert "# How many layers." in annotated_toml(config)


def test_every_shipped_config_is_found_by_its_name_also_one_with_a_dot() -> None:
    for name, path in shipped_configs().items():
        assert find_config(name) == find_config(f"{name}.toml") == path
    assert "gpt2-1.5b" in shipped_configs()


@pytest.mark.parametrize("value", ["9" * 4000, "-" + "9" * 30])
def test_a_whole_number_of_more_than_64_bits_is_refused(value: str) -> None:
    class Numbers(Config):
        number: int = 1

    with pytest.raises(ConfigError, match="64 bits") as failure:
        validate(Numbers, parse_assignment(f"number={value}"))
    assert len(str(failure.value)) < 400


def test_a_long_wrong_value_is_shortened_in_the_message() -> None:
    class Numbers(Config):
        number: int = 1

    with pytest.raises(ConfigError) as failure:
        validate(Numbers, parse_assignment("number=" + "[" * 5000))
    assert len(str(failure.value)) < 400


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("train.trackers=[tensorboard, wandb]", ["tensorboard", "wandb"]),
        ("train.trackers=['tensorboard']", ["tensorboard"]),
        ("data.corpus=[a b.txt,c.txt]", ["a b.txt", "c.txt"]),
        ("data.document_separator=[]", []),
        ("data.document_separator=[ ]x", "[ ]x"),
    ],
)
def test_an_array_whose_quotes_the_shell_has_removed_is_an_array_of_texts(text: str, value: object) -> None:
    raw = parse_assignment(text)
    section, key = text.partition("=")[0].split(".")
    assert raw.values == {section: {key: value}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" + ".".join("a" * 900) + "]", "tables are nested more than 32 deep"),
        ("x = " + "{a = " * 50 + "1" + "}" * 50, "tables are nested more than 32 deep"),
        (".".join("a" * 40_000) + " = 1", "more than 1,000 dots"),
        ("x = " + "[" * 20_000 + "]" * 20_000, "its values are nested too deeply"),
        ("x = " + "9" * 5000, "is not a TOML file"),
    ],
    ids=["a table's name", "inline tables", "dots", "arrays", "digits"],
)
def test_a_file_that_is_deeper_or_longer_than_any_config_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "deep.toml").write_text(text)
    with pytest.raises(ConfigError, match=words) as failure:
        read_toml(tmp_path / "deep.toml")
    assert len(str(failure.value)) < 400


def test_an_assignment_of_more_digits_than_python_reads_is_a_text() -> None:
    assert parse_assignment("a.b=" + "9" * 5000).values == {"a": {"b": "9" * 5000}}
    with pytest.raises(ConfigError, match="tables are nested more than 32 deep"):
        parse_assignment(".".join("a" * 2000) + "=1")
