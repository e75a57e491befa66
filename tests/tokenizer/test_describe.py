"""The description of a tokenizer in figures."""

from __future__ import annotations

import json

import pytest

from gptcli.errors import TokenizerError
from gptcli.tokenizer.describe import describe, for_people, parse_ids
from gptcli.tokenizer.tokenizer import Tokenizer


def test_figures_on_a_text_are_its_own(tokenizer: Tokenizer) -> None:
    text = "the miller said"
    figures = json.loads(json.dumps(describe(tokenizer, text)))
    ids = tokenizer.encode(text)
    assert figures["kind"] == tokenizer.name and figures["vocab_size"] == tokenizer.vocab_size
    assert (figures["bytes"], figures["tokens"]) == (15, len(ids))
    assert figures["bytes_per_token"] == 15 / len(ids)
    assert figures["distinct_tokens"] == len(set(ids))
    assert figures["round_trip_exact"] is True and figures["unknown_tokens"] == 0


def test_bpe_needs_fewer_tokens_than_bytes(bpe: Tokenizer, byte: Tokenizer, prose: tuple) -> None:
    assert describe(byte, prose[0])["bytes_per_token"] == 1
    assert describe(bpe, prose[0])["bytes_per_token"] > 1.3


def test_unknown_characters_are_counted(char: Tokenizer) -> None:
    figures = describe(char, "aöü")
    assert figures["unknown_tokens"] == 2 and figures["round_trip_exact"] is False


def test_the_longest_tokens_are_shown_longest_first(bpe: Tokenizer) -> None:
    longest = describe(bpe)["longest_tokens"]
    lengths = [len(token) for token in longest]
    assert lengths == sorted(lengths, reverse=True)
    every = [bpe.token_text(id) for id in range(bpe.vocab_size) if id != bpe.eos_id]
    assert lengths[0] == max(map(len, every)) and set(longest) <= set(every)


def test_special_tokens_are_listed(char: Tokenizer) -> None:
    assert describe(char)["special_tokens"] == {"<unk>": char.unk_id, "<|endoftext|>": char.eos_id}


def test_an_empty_text_has_no_ratio(byte: Tokenizer) -> None:
    assert describe(byte, "")["bytes_per_token"] is None


def test_for_people_every_figure_has_a_line(char: Tokenizer) -> None:
    figures = describe(char, "the miller")
    lines = for_people(figures).splitlines()
    assert len(lines) == len(figures)
    assert any(line.startswith("bytes per token") and line.endswith("1.000") for line in lines)


def test_ids_are_read_with_spaces_and_commas() -> None:
    assert parse_ids(" 1,2, 3\n4 ") == [1, 2, 3, 4]
    assert parse_ids("") == []
    for wrong in ("1 x", "-1", "1.5", "²"):
        with pytest.raises(TokenizerError, match="is not an id"):
            parse_ids(wrong)
