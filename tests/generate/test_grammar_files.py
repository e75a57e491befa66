"""Grammars and biases as a command line names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gptcli.errors import StorageError, UsageError
from gptcli.generate.biases import read_biases
from gptcli.generate.constraint import NO_GRAMMAR
from gptcli.generate.grammar_files import read_grammar


def test_one_grammar_is_read_and_named(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    file.write_text('{"type": "string"}\n')
    assert read_grammar(None, None, None) is NO_GRAMMAR
    assert read_grammar(str(file), None, None) == ("json_schema", '{"type": "string"}\n', f"the JSON schema {file}")
    assert read_grammar(None, "a+", None) == ("regex", "a+", "--regex")
    assert read_grammar(None, None, str(file)) == ("lark", '{"type": "string"}\n', f"the grammar {file}")


def test_several_grammars_or_a_missing_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--json-schema and --regex were both given; give one of them"):
        read_grammar("s.json", "a", None)
    with pytest.raises(StorageError, match="cannot read"):
        read_grammar(None, None, str(tmp_path / "missing"))


def test_biases_are_ids_and_numbers() -> None:
    assert read_biases(["3=1.5", "50256=-100"]) == {3: 1.5, 50256: -100.0}
    with pytest.raises(UsageError, match="'3' is not an id and a number; write ID=VALUE"):
        read_biases(["3"])
    with pytest.raises(UsageError, match="names the id 3 twice; give it once"):
        read_biases(["3=1", "3=2"])
