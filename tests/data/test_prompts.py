"""The suggested prompt works when it is typed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gptcli.data.prompts import example_prompt, suggested_prompt
from gptcli.data.shards import ShardWriter, TokenShards
from gptcli.tokenizer.config import ByteTokenizerConfig, CharTokenizerConfig
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import build_tokenizer

BYTES = build_tokenizer(ByteTokenizerConfig(), lambda: iter(()))


def split_of(folder: Path, tokenizer: Tokenizer, *texts: str) -> TokenShards:
    with ShardWriter(folder / "val", tokenizer.vocab_size, tokenizer.framing, tokenizer.fingerprint) as writer:
        for text in texts:
            writer.add(np.array(tokenizer.encode(text)), len(text.encode()), True)
    return TokenShards.open(folder / "val")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["It's a cold day by the river.", "Other."], "It's a cold day"),
        (["\n\n  --help\nSecond line here", "Other."], "Second line here"),
        (["\x07", "", "ab", "\ufffd\ufffd\ufffd", "A \u201cquoted\u201d text"], "A \u201cquoted\u201d text"),
        (["\u4f60\u597d" * 40, "x"], "\u4f60\u597d" * 15),
        (["cut in a word,\nand then a line"], "and then a line"),
        (["only one line"], "only one line"),
        (["\n", " "], None),
    ],
)
def test_the_beginning_of_a_validation_document(tmp_path: Path, texts: list[str], expected: str | None) -> None:
    assert suggested_prompt(split_of(tmp_path, BYTES, *texts), BYTES) == expected


def test_a_prompt_has_characters_of_the_vocabulary_only(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(CharTokenizerConfig(), lambda: iter(["abcdef \n"]))
    assert suggested_prompt(split_of(tmp_path, tokenizer, "xyz xyz", "abx", "bad cab"), tokenizer) == "bad cab"
    assert example_prompt(BYTES) == "Once upon a time"
    wordy = build_tokenizer(CharTokenizerConfig(), lambda: iter(["Once upatime"]))
    assert example_prompt(wordy) == "Once upon a time"
