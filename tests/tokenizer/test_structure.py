"""Cutting of long texts: the ids of the pieces, joined, are the ids of the whole."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable

import pytest
import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from gptcli.tokenizer.structure import LINE_SPLITS, WORD_ENDS, Boundary, chunk_boundary, pieces
from gptcli.tokenizer.tokenizer import Tokenizer


def cut_of(backend: tokenizers.Tokenizer) -> Boundary:
    return chunk_boundary(json.loads(backend.to_str()))


@pytest.mark.parametrize("cut", list(Boundary))
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_pieces_joined_are_the_text(hard_texts: tuple, cut: Boundary, size: int) -> None:
    for text in hard_texts:
        cuts = list(pieces(text, cut, size))
        assert "".join(cuts) == text
        assert all(len(piece) >= size for piece in cuts[:-1])


@pytest.mark.parametrize("size", [1, 5, 40])
def test_ids_of_pieces_joined_are_the_ids_of_the_whole(tokenizer: Tokenizer, hard_texts: tuple, size: int) -> None:
    cut = cut_of(tokenizer.backend)
    assert cut is (Boundary.WORD_END if tokenizer.name == "bpe" else Boundary.ANYWHERE)
    number_of_pieces = 0
    for text in hard_texts:
        joined: list[int] = []
        for piece in pieces(text, cut, size):
            joined += tokenizer.backend.encode(piece, add_special_tokens=False).ids
            number_of_pieces += 1
        assert joined == tokenizer.backend.encode(text, add_special_tokens=False).ids
    assert number_of_pieces > 2 * len(hard_texts), "texts were cut"


def line_splitter(pattern: str) -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer of Llama 3 and Qwen 2, as their tokenizer.json has it."""
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def some(code: int) -> bool:
    return code % 23 == 0


def assigned(code: int) -> bool:
    """Those without a category, of which there are six times as many, are all of one kind to the library."""
    return unicodedata.category(chr(code)) not in ("Cn", "Co") or some(code)


@pytest.mark.parametrize("is_taken", [some, pytest.param(assigned, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("splitter", "cut", "blanks"),
    [
        (pre_tokenizers.ByteLevel(add_prefix_space=False), Boundary.WORD_END, " \t\r\n"),
        *((line_splitter(pattern), Boundary.BLANK, " \t") for pattern in LINE_SPLITS),
    ],
)
def test_words_end_at_a_word_end_whatever_the_character(
    splitter: pre_tokenizers.PreTokenizer, cut: Boundary, blanks: str, is_taken: Callable[[int], bool]
) -> None:
    """The characters of Unicode, each before a white space and a letter, split by the library."""
    codes = (*range(0x3100), *filter(is_taken, range(0x3100, sys.maxunicode + 1)))
    characters = [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
    before_space = [character for character in characters if WORD_ENDS[cut].match(f"{character} ")]
    assert len(characters) - 40 < len(before_space) < len(characters), "only white space is left out"
    for start in range(0, len(before_space), 8192):
        block = before_space[start : start + 8192]
        text = "".join(character + blanks[place % len(blanks)] + "x" for place, character in enumerate(block))
        ends = {end for _, (_, end) in splitter.pre_tokenize_str(text)}
        assert {3 * place + 1 for place in range(len(block))} <= ends


def make(**parts: object) -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    settings = {key: parts[key] for key in ("dropout", "ignore_merges", "fuse_unk") if key in parts}
    model = models.BPE({character: id for id, character in enumerate(alphabet)}, [], **settings)
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = parts.get("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=False))
    if "normalizer" in parts:
        backend.normalizer = parts["normalizer"]
    backend.add_tokens(parts.get("added", []))
    return backend


def test_only_tokenizers_whose_rule_is_known_are_cut() -> None:
    unsplit = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert cut_of(make()) is Boundary.WORD_END
    assert all(cut_of(make(pre_tokenizer=line_splitter(pattern))) is Boundary.BLANK for pattern in LINE_SPLITS)
    assert cut_of(make(pre_tokenizer=unsplit)) is Boundary.ANYWHERE
    assert cut_of(make(pre_tokenizer=unsplit, ignore_merges=True)) is Boundary.NOWHERE
    assert cut_of(make(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True))) is Boundary.NOWHERE
    assert cut_of(make(pre_tokenizer=line_splitter(r"\s+"))) is Boundary.NOWHERE
    assert cut_of(make(pre_tokenizer=pre_tokenizers.Sequence([line_splitter(LINE_SPLITS[0])] * 2))) is Boundary.NOWHERE
    assert cut_of(make(pre_tokenizer=pre_tokenizers.Whitespace())) is Boundary.NOWHERE
    assert cut_of(make(normalizer=normalizers.NFC())) is Boundary.NOWHERE
    assert cut_of(make(added=[AddedToken("two words")])) is Boundary.NOWHERE
    assert cut_of(make(dropout=0.1)) is cut_of(make(fuse_unk=True)) is Boundary.NOWHERE
    unigram = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    assert cut_of(unigram) is Boundary.NOWHERE and Tokenizer(unigram).name == "unigram"
