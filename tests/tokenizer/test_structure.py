"""Cutting long texts: the ids of the pieces, joined, are the ids of the whole."""

from __future__ import annotations

import sys

import pytest
import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from gptcli.tokenizer.structure import WORD_END, Cut, pieces
from gptcli.tokenizer.tokenizer import Tokenizer


@pytest.mark.parametrize("cut", list(Cut))
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_pieces_joined_are_the_text(hard_texts: tuple, cut: Cut, size: int) -> None:
    for text in hard_texts:
        cuts = list(pieces(text, cut, size))
        assert "".join(cuts) == text
        assert all(len(piece) >= size for piece in cuts[:-1])


@pytest.mark.parametrize("size", [1, 5, 40])
def test_ids_of_pieces_joined_are_the_ids_of_the_whole(tokenizer: Tokenizer, hard_texts: tuple, size: int) -> None:
    assert tokenizer.cut is (Cut.WORD_END if tokenizer.name == "bpe" else Cut.ANYWHERE)
    number_of_pieces = 0
    for text in hard_texts:
        joined: list[int] = []
        for piece in pieces(text, tokenizer.cut, size):
            joined += tokenizer.backend.encode(piece, add_special_tokens=False).ids
            number_of_pieces += 1
        assert joined == tokenizer.backend.encode(text, add_special_tokens=False).ids
    assert number_of_pieces > 2 * len(hard_texts), "texts were cut"


@pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_gpt2_words_end_at_a_word_end_whatever_the_character(step: int) -> None:
    """The characters of Unicode, each before a white space and a letter, split by the library."""
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    codes = (*range(0x3100), *range(0x3100, sys.maxunicode + 1, step))
    characters = [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
    before_space = [character for character in characters if WORD_END.match(f"{character} ")]
    assert len(characters) - 40 < len(before_space) < len(characters), "only white space is left out"
    for start in range(0, len(before_space), 8192):
        block = before_space[start : start + 8192]
        text = "".join(character + " \t\r\n"[place % 4] + "x" for place, character in enumerate(block))
        ends = {end for _, (_, end) in splitter.pre_tokenize_str(text)}
        assert {3 * place + 1 for place in range(len(block))} <= ends


def make(**parts: object) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({character: id for id, character in enumerate(alphabet)}, []))
    backend.pre_tokenizer = parts.get("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=False))
    if "normalizer" in parts:
        backend.normalizer = parts["normalizer"]
    backend.add_tokens(parts.get("added", []))
    return Tokenizer(backend)


def test_only_tokenizers_whose_rule_is_known_are_cut() -> None:
    assert make().cut is Cut.WORD_END
    assert make(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)).cut is Cut.NOWHERE
    assert make(pre_tokenizer=pre_tokenizers.Whitespace()).cut is Cut.NOWHERE
    assert make(normalizer=normalizers.NFC()).cut is Cut.NOWHERE
    assert make(added=[AddedToken("two words")]).cut is Cut.NOWHERE
    unigram = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    assert Tokenizer(unigram).cut is Cut.NOWHERE and Tokenizer(unigram).name == "unigram"
