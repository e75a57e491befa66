"""The number of bytes of a text that a tokenizer loses: none, all, or as many as a slow alignment finds."""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from gptcli.tokenizer import lost_text
from gptcli.tokenizer.config import BpeTokenizerConfig, ByteTokenizerConfig, CharTokenizerConfig
from gptcli.tokenizer.lost_text import LostText, LostTextMeter, lost_bytes, pieces, unmatched_bytes
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import build_tokenizer
from special_tokens import with_specials

WORDS = ["the", "old", "miller", "walked", "down", "to", "a", "cold", "river", "and", "sang"]
TEXT = "The old miller walked down\nto a cold river, and sang.\n\n\tthe OLD river\n" * 40


def word_piece(*more: str) -> Tokenizer:
    """As BERT's: lowercases, splits at white space and signs, and has no token for line ends."""
    entries = ["[UNK]", ",", ".", *WORDS, *more]
    backend = tokenizers.Tokenizer(models.WordPiece({word: id for id, word in enumerate(entries)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return Tokenizer(backend)


def unigram() -> Tokenizer:
    """As T5's: white space is a sign before the next word."""
    pairs = [
        ("<unk>", 0.0),
        ("\N{LOWER ONE EIGHTH BLOCK}", -2.0),
        *((letter, -4.0) for letter in "abcdefghijklmnopqrstuvwxyz,."),
    ]
    backend = tokenizers.Tokenizer(models.Unigram(pairs, unk_id=0, byte_fallback=False))
    backend.normalizer = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens([AddedToken("<unk>", special=True)])
    return Tokenizer(backend)


def word_level() -> Tokenizer:
    backend = tokenizers.Tokenizer(models.WordLevel({"<unk>": 0, "river": 1, "the": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return Tokenizer(backend)


@pytest.mark.parametrize("make", [word_piece, unigram, word_level])
def test_a_text_of_newlines_is_lost_whole(make: Callable[[], Tokenizer]) -> None:
    """But for the blanks that a decoder writes, of which there is nothing to write between."""
    assert lost_bytes(make(), "\n" * 1000) >= 999


def test_what_a_word_piece_tokenizer_loses_is_counted_by_hand() -> None:
    tokenizer = word_piece()
    assert lost_bytes(tokenizer, "the old miller") == 0
    assert lost_bytes(tokenizer, "The old miller") == 1  # the capital
    assert lost_bytes(tokenizer, "the old\nmiller") == 1  # the line end is a blank
    assert lost_bytes(tokenizer, "the old\n\nmiller \u00e9t\u00e9") == 2 + len(" \u00e9t\u00e9".encode())
    assert lost_bytes(tokenizer, "xyzzy") == 5
    assert lost_bytes(tokenizer, "") == 0


@pytest.mark.parametrize("make", [word_piece, unigram, word_level])
def test_segments_give_what_one_alignment_of_the_whole_gives(make: Callable[[], Tokenizer]) -> None:
    tokenizer, generator = make(), random.Random(0)
    for _ in range(5):
        words = [generator.choice([*WORDS, "Zebra", "\u00fcber", "\n", "  "]) for _ in range(300)]
        text = " ".join(words)
        known = [id for id in tokenizer.backend.encode(text).ids if id != tokenizer.unk_id]
        whole = unmatched_bytes(text, tokenizer.decode(known))
        found = lost_bytes(tokenizer, text)
        assert whole <= found <= whole * 1.03 + 3
        assert found < len(text.encode())


def test_unmatched_bytes_are_those_outside_a_longest_common_subsequence() -> None:
    def longest(a: str, b: str) -> int:
        row = [0] * (len(b) + 1)
        for left in a:
            diagonal = 0
            for place, right in enumerate(b, start=1):
                diagonal, row[place] = row[place], diagonal + 1 if left == right else max(row[place], row[place - 1])
        return row[-1]

    generator = random.Random(1)
    for _ in range(50):
        a, b = ("".join(generator.choices("abc ", k=generator.randrange(30))) for _ in range(2))
        assert unmatched_bytes(a, b) == len(a) - longest(a, b)
        matched = sum(block.size for block in difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks())
        assert unmatched_bytes(a, b) <= len(a) - matched
    assert unmatched_bytes("a\u20acb", "ab") == 3


def test_bytes_lose_nothing_and_characters_what_their_vocabulary_lacks() -> None:
    byte = build_tokenizer(ByteTokenizerConfig(), lambda: iter(()))
    bpe = build_tokenizer(BpeTokenizerConfig(vocab_size=300), lambda: iter([TEXT]))
    char = build_tokenizer(CharTokenizerConfig(), lambda: iter(["abc "]))
    assert byte.is_lossless and bpe.is_lossless and not char.is_lossless
    assert lost_bytes(char, "abc \u00e9 a\n") == 3


def test_a_byte_level_tokenizer_that_changes_the_text_is_measured() -> None:
    plain, composing = with_specials(), with_specials()
    composing.normalizer = normalizers.NFC()
    assert Tokenizer(plain).is_lossless and not Tokenizer(composing).is_lossless
    assert lost_bytes(Tokenizer(composing), "e\u0301") == 3 and lost_bytes(Tokenizer(composing), "\u00e9") == 0
    lowering = with_specials()
    lowering.normalizer = normalizers.Lowercase()
    assert lost_bytes(Tokenizer(lowering), "Aa") == 1


def test_a_sample_of_a_long_text_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_text, "PIECE_CHARACTERS", 100)
    monkeypatch.setattr(lost_text, "WHOLE_CHARACTERS", 1000)
    assert "".join(pieces(TEXT)) == TEXT and max(map(len, pieces(TEXT))) <= 100
    assert "".join(pieces("x" * 1234)) == "x" * 1234
    meter, size = LostTextMeter(word_piece()), len(TEXT.encode())
    parts = [meter.add(TEXT, size) for _ in range(20)]
    assert sum(parts, LostText()) == meter.found
    assert meter.found.text_bytes == 20 * size
    assert 1000 <= meter.found.measured_bytes < 1000 + 20 * size / 20
    whole = lost_bytes(word_piece(), TEXT) / size
    assert meter.found.share == pytest.approx(whole, rel=0.2)
    assert "measured on" in meter.found.words("this text")


def test_a_small_loss_is_reported_and_a_large_one_withholds_bits_per_byte() -> None:
    assert LostText(0, 10, 10).words("this text") == ""
    assert not LostText(1, 1000, 1000).is_withheld and LostText(2, 1000, 1000).is_withheld
    assert "0.1 %" in LostText(1, 1000, 1000).words("this text")
    assert LostText.of_json(LostText(1, 2, 3).as_json()) == LostText(1, 2, 3)
