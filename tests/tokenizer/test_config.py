"""The tokenizer section: shorthand, defaults and refused values."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gptcli.config import Config, RawConfig, dump_toml, merge, parse_assignment, validate
from gptcli.errors import ConfigError
from gptcli.tokenizer.config import (
    BpeTokenizerConfig,
    ByteTokenizerConfig,
    CharTokenizerConfig,
    FileTokenizerConfig,
    HubTokenizerConfig,
    TokenizerConfig,
)


class Holder(Config):
    tokenizer: TokenizerConfig = BpeTokenizerConfig()


def resolve(*assignments: str) -> TokenizerConfig:
    return validate(Holder, merge(*(parse_assignment(text) for text in assignments))).tokenizer


@pytest.mark.parametrize("key", ["tokenizer", "tokenizer.name"])
@pytest.mark.parametrize(
    ("shorthand", "expected"),
    [
        ("char", CharTokenizerConfig()),
        ("byte", ByteTokenizerConfig()),
        ("bpe", BpeTokenizerConfig(vocab_size=4096, min_frequency=2)),
        ("file:/some/where:else", FileTokenizerConfig(path="/some/where:else")),
        ("hf:acme/words", HubTokenizerConfig(repo="acme/words", revision=None)),
    ],
)
def test_shorthand_stands_for_the_whole_section_or_its_name(key: str, shorthand: str, expected: Config) -> None:
    assert resolve(f"{key}={shorthand}") == expected


def test_a_field_alone_belongs_to_the_default_kind() -> None:
    assert resolve("tokenizer.vocab_size=512") == BpeTokenizerConfig(vocab_size=512)


def test_a_later_kind_drops_the_fields_of_an_earlier_one() -> None:
    assert resolve("tokenizer.vocab_size=512", "tokenizer=char") == CharTokenizerConfig()


def test_what_is_written_to_toml_reads_back_as_the_same_config() -> None:
    import tomllib

    for shorthand in ("char", "byte", "bpe", "file:a/b", "hf:acme/words"):
        config = validate(Holder, parse_assignment(f"tokenizer={shorthand}"))
        assert validate(Holder, RawConfig(tomllib.loads(dump_toml(config)))) == config


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("tokenizer.vocab_size=256", "257"),
        ("tokenizer.vocab_size=5000000000", "1,000,000"),
        ("tokenizer.min_frequency=0", "min_frequency"),
        ("tokenizer.vocab_sice=300", "did you mean 'tokenizer.vocab_size'?"),
        ("tokenizer=chr", "'char', 'byte', 'bpe', 'file', 'hf'"),
        ("tokenizer=file:", "path"),
        ("tokenizer.name=hf", "repo"),
        ("tokenizer=7", "tokenizer"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_key(assignment: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(assignment)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_importing_the_config_imports_neither_torch_nor_tokenizers() -> None:
    code = "import sys, gptcli.tokenizer.config; print(sorted({'torch', 'tokenizers', 'numpy'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
