"""`gptcli data prepare|inspect` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gptcli.cli.data import data_app
from gptcli.errors import ConfigError, DataError, GptcliError, UsageError


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    path = tmp_path / "books" / "a.jsonl"
    path.parent.mkdir()
    rows = [{"text": f"Story number {number}, told {number % 7} times."} for number in range(100)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0], {"text": " "}]))
    return str(path.parent)


def run(*arguments: str) -> str:
    """stdout of the command."""
    result = CliRunner().invoke(data_app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_prepare_reports_what_was_kept_dropped_and_split(corpus: str, tmp_path: Path) -> None:
    report = json.loads(run("prepare", corpus, "--set", "data.tokenizer=byte", "--cache-dir", str(tmp_path), "--json"))
    assert report["train"]["documents"] + report["val"]["documents"] == 100
    assert report["dropped"] == {
        "duplicates": 1,
        "duplicate_bytes": len("Story number 0, told 0 times."),
        "blank": 1,
        "overlap": 0,
        "overlap_bytes": 0,
    }
    assert report["tokenizer"]["name"] == "byte"
    assert report["train_tokens"] == report["train"]["bytes"] + report["train"]["documents"]
    assert Path(report["directory"]).is_relative_to(tmp_path)
    shown = run("prepare", corpus, "--set", "data.tokenizer=byte", "--cache-dir", str(tmp_path))
    assert f"{report['train_tokens']:,} tokens" in shown and "was there already" in shown


def test_settings_come_from_the_data_section_of_a_training_config(corpus: str, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(f"""
        seed = 3
        [data]
        corpus = ["{corpus}"]
        val_fraction = 0.4
        [data.tokenizer]
        name = "bpe"
        vocab_size = 300
        [model]
        n_layer = 2
        [optim]
        name = "muon"
    """)
    report = json.loads(run("prepare", "-c", str(config), "--set", "data.tokenizer.vocab_size=280", "--json"))
    assert report["tokenizer"]["vocab_size"] == 280
    assert report["val_fraction"] == pytest.approx(0.4, abs=0.02)
    others = json.loads(run("prepare", "-c", str(config), "--set", "seed=4", "--json"))
    assert others["fingerprint"] != report["fingerprint"]


def test_inspect_shows_a_corpus_its_cache_and_one_split_alike(corpus: str) -> None:
    settings = ("--set", "data.tokenizer=byte")
    directory = json.loads(run("prepare", corpus, *settings, "--json"))["directory"]
    from_corpus, from_cache = (
        json.loads(run("inspect", source, *settings, "--json"))["splits"] for source in (corpus, directory)
    )
    assert from_corpus == from_cache and len(from_cache) == 2
    train = from_cache[0]
    assert json.loads(run("inspect", f"{directory}/train", "--json"))["splits"] == [train]
    assert train["tokens"] == train["bytes"] + train["documents"]
    assert train["bytes_per_token"] == 1
    assert all("Story number" in window["text"] for window in train["windows"])
    shown = run("inspect", directory, "--windows", "1")
    assert shown.count("Story number") == 2 and f"{train['tokens']:,}" in shown


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["prepare"], UsageError, "no corpus is named"),
        (["prepare", "missing.txt"], DataError, "there is no corpus missing.txt"),
        (["inspect", "missing.txt"], DataError, "there is no corpus missing.txt"),
        (["prepare", "x.txt", "--set", "data.val_fracton=0.2"], ConfigError, "did you mean 'data.val_fraction'"),
        (["prepare", "x.txt", "--set", "data.val_fraction=2"], ConfigError, "data.val_fraction"),
        (["prepare", "x.txt", "--set", "data.tokenizer=chars"], ConfigError, "tokenizer"),
        (["prepare", "x.txt", "-c", "no-such-config"], ConfigError, "no config file no-such-config"),
    ],
)
def test_a_mistake_is_one_line_of_the_right_kind(
    arguments: list[str], error: type[GptcliError], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(data_app, arguments)
    assert type(result.exception) is error and message in str(result.exception)
    assert "\n" not in str(result.exception) and not result.stdout
