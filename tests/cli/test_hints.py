"""Words of other programs: each is answered with a command, an option or a key that exists."""

from __future__ import annotations

import re
import shlex
import sys

import pytest
from typer.testing import CliRunner

from command_tree import COMMANDS
from gptcli.cli.app import app, main
from gptcli.cli.hints import INSTEAD_OF_COMMANDS, INSTEAD_OF_OPTIONS, INSTEAD_OF_WORDS
from gptcli.config.names import OTHER_NAMES, key_named, key_paths
from gptcli.errors import UsageError
from gptcli.train.config import RunConfig


def options_of(words: list[str]) -> set[str]:
    """The options of the longest beginning of `words` that is a command; at least one word must be."""
    found = max((c for c in COMMANDS if tuple(words[: len(c)]) == c), key=len)
    assert found, f"{words} is no command"
    return COMMANDS[found]


@pytest.mark.parametrize("advice", INSTEAD_OF_COMMANDS.values())
def test_every_command_that_is_advised_exists_with_its_options(advice: str) -> None:
    advised = re.findall(r"gptcli ([^,]*)", advice)
    assert advised
    for command in advised:
        words = shlex.split(command.replace("'", ""))
        known = options_of(words)
        assert all(word in known for word in words if word.startswith("--"))


def test_every_option_and_key_that_is_advised_exists() -> None:
    for verb, table in INSTEAD_OF_OPTIONS.items():
        assert set(table.values()) <= COMMANDS[(verb,)]
        assert not set(table) & COMMANDS[(verb,)]
    for verb, table in INSTEAD_OF_WORDS.items():
        assert {word for words in table.values() for word in words.split() if word[:2] == "--"} <= COMMANDS[(verb,)]
        assert not set(table) & COMMANDS[(verb,)]
    keys = set(key_paths(RunConfig))
    assert set(OTHER_NAMES) <= keys
    names = [name for names in OTHER_NAMES.values() for name in names.split()]
    assert len(names) == len(set(names))


def test_a_key_is_found_by_its_last_part_and_by_other_names() -> None:
    assert key_named(RunConfig, "weight-decay") == "optim.weight_decay"
    assert key_named(RunConfig, "Learning_Rate") == "optim.lr"
    assert key_named(RunConfig, "vocab_size") == "data.tokenizer.vocab_size"
    assert key_named(RunConfig, "frobnicate") is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "x", "--lr", "3e-4"], "gptcli train has no option --lr; write --set optim.lr=3e-4"),
        (["train", "x", "--batch-size=8"], "write --set train.batch_size=8"),
        (["train", "x", "--steps", "-c", "demo"], "write --set train.max_steps=..."),
        (["train", "x", "--tokenizer", "hf:a b"], "write --set data.tokenizer='hf:a b'"),
        (["data", "prepare", "x", "--val-split", "0.1"], "gptcli data prepare has no option --val-split"),
        (["generate", "run", "--max-tokens", "5"], "write --max-new-tokens 5"),
        (["finetune", "base", "x", "--lora"], "gptcli finetune has no option --lora; write --method lora"),
        (["finetune", "x", "--model", "base"], "write gptcli finetune BASE DATA"),
        (["finetune", "base", "x", "--learning-rate", "1e-4"], "write --set optim.lr=1e-4"),
        (["finetune", "base", "x", "--num-train-epochs=2"], "write --set train.epochs=2"),
        (["sft", "base", "x"], "there is no command 'sft'; gptcli finetune BASE DATA"),
        (["talk", "run"], "there is no command 'talk'; gptcli chat RUN"),
        (["chat", "run", "--max-tokens", "5"], "write --max-new-tokens 5"),
        (["train", "x", "--set", "lr=1"], "unknown key 'lr'; did you mean 'optim.lr'?"),
        (["train", "x", "--set", "train.num_layers=1"], "did you mean 'model.n_layer'?"),
    ],
)
def test_a_word_of_another_program_is_one_line_with_what_serves_here(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["gptcli", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.count("\n") == 1 and words in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["data", "inspect", "x", "--windows", "10" * 12],
            "'--windows' / '-n': it should be less than or equal to 10000",
        ),
        (["plan", "gpt2-124m", "--mfu", "nan"], "invalid value for '--mfu': it should be"),
        (["bench", "limits", "--seconds", "inf"], "see gptcli bench limits --help"),
        (["generate", "x", "--overflow", "y"], "invalid value for '--overflow': 'y' is not one of"),
        (["eval"], "missing argument 'run'; see gptcli eval --help"),
    ],
)
def test_a_value_that_an_option_cannot_take_is_an_error_of_one_line(arguments: list[str], words: str) -> None:
    outcome = CliRunner().invoke(app, arguments)
    assert isinstance(outcome.exception, UsageError)
    assert words in str(outcome.exception)
