"""The vocabulary of a GGUF file gives our ids, by llama.cpp's algorithm written down here after its source."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from gptcli.errors import UsageError
from gptcli.interop.gguf_tokenizer import CONTROL, NORMAL, TOKEN_UNKNOWN, USER_DEFINED, GgufTokenizer, gguf_tokenizer
from gptcli.tokenizer.byte_level import CHARACTER_OF_BYTE
from gptcli.tokenizer.config import BpeTokenizerConfig, ByteTokenizerConfig, CharTokenizerConfig
from gptcli.tokenizer.structure import LINE_SPLITS
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import build_tokenizer

TEXT = (
    "Stories: naïve café 東京 🙂 , it 's\n\n\tend of  them. Don't we'll 12345 ½ x²\r\n  <unk> ¿qué? \u00a0 \u3000 "
    "end\u200d👩‍👩‍👧 éèê ｅｎｄ  \n"
)
GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SPLITS = {"gpt-2": GPT2_SPLIT, "llama-bpe": LINE_SPLITS[0], "smaug-bpe": LINE_SPLITS[0], "qwen2": LINE_SPLITS[1]}


def as_llama_cpp_does(vocabulary: GgufTokenizer, text: str) -> list[int]:
    """Words by the pattern, bytes as characters, the merge of lowest rank first and of those the leftmost, tokens."""
    splitter = pre_tokenizers.Split(tokenizers.Regex(SPLITS[vocabulary.pre]), "isolated")
    id_of = {token: id for id, token in enumerate(vocabulary.tokens)}
    ranks = {tuple(merge.split(" ", 1)): rank for rank, merge in reversed(list(enumerate(vocabulary.merges)))}
    ids = []
    for word, _ in splitter.pre_tokenize_str(text):
        symbols = [CHARACTER_OF_BYTE[byte] for byte in word.encode()]
        if vocabulary.pre == "llama-bpe" and "".join(symbols) in id_of:
            symbols = ["".join(symbols)]
        while pairs := [pair for pair in pairwise(symbols) if pair in ranks]:
            best = min(pairs, key=ranks.__getitem__)
            place = next(i for i in range(len(symbols) - 1) if (symbols[i], symbols[i + 1]) == best)
            symbols[place : place + 2] = ["".join(best)]
        ids += [id_of[symbol] for symbol in symbols if symbol in id_of]
    return ids


@pytest.mark.parametrize(
    "settings", [ByteTokenizerConfig(), CharTokenizerConfig(), BpeTokenizerConfig(vocab_size=300)], ids=lambda s: s.name
)
def test_every_kind_made_here_gives_its_ids(settings):
    tokenizer = build_tokenizer(settings, lambda: iter([TEXT * 5]))
    vocabulary = gguf_tokenizer(tokenizer, tokenizer.vocab_size)
    assert vocabulary.pre == "gpt-2"
    assert vocabulary.merges  # llama.cpp refuses a file without any
    assert len(vocabulary.tokens) == len(set(vocabulary.tokens)) == len(vocabulary.types) == tokenizer.vocab_size
    for text in (TEXT, TEXT[::-1], "", "a", "\n", "  ", TEXT * 2):
        assert as_llama_cpp_does(vocabulary, text) == tokenizer.encode(text)


def test_characters_that_the_vocabulary_lacks_are_dropped_and_nothing_else():
    tokenizer = build_tokenizer(CharTokenizerConfig(), lambda: iter(["aé東京🙂"]))
    vocabulary = gguf_tokenizer(tokenizer, tokenizer.vocab_size)
    text = "東z亜é京🙁a🙂è"  # z, and neighbours whose first bytes are those of characters that are known
    assert as_llama_cpp_does(vocabulary, text) == [id for id in tokenizer.encode(text) if id != tokenizer.unk_id]


def test_special_tokens_have_their_types():
    tokenizer = build_tokenizer(CharTokenizerConfig(), lambda: iter(["abc"]))
    vocabulary = gguf_tokenizer(tokenizer, tokenizer.vocab_size)
    assert vocabulary.tokens == ["a", "b", "c", "<unk>", "<|endoftext|>"]
    assert vocabulary.types == [NORMAL] * 3 + [TOKEN_UNKNOWN, CONTROL]


def byte_level(text: str, splitter: pre_tokenizers.PreTokenizer, **model) -> Tokenizer:
    """A BPE tokenizer trained on `text`, with another splitter in front of the byte alphabet."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([text], trainer)
    spec = json.loads(backend.to_str())
    spec["model"] |= model
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(spec)))


def lines(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


@pytest.mark.parametrize(
    ("pattern", "model", "pre"),
    [
        (LINE_SPLITS[0], {"ignore_merges": True}, "llama-bpe"),
        (LINE_SPLITS[0], {}, "smaug-bpe"),
        (LINE_SPLITS[1], {}, "qwen2"),
    ],
    ids=["llama 3", "its pattern alone", "qwen 2"],
)
def test_foreign_patterns_that_llama_cpp_knows_are_named(pattern, model, pre):
    tokenizer = byte_level(TEXT * 5, lines(pattern), **model)
    vocabulary = gguf_tokenizer(tokenizer, tokenizer.vocab_size)
    assert vocabulary.pre == pre
    assert as_llama_cpp_does(vocabulary, TEXT) == tokenizer.encode(TEXT)


def test_added_tokens_that_are_text_are_written_as_text():
    tokenizer = byte_level(TEXT * 5, lines(LINE_SPLITS[1]))
    tokenizer.backend.add_tokens(["<think>"])
    again = Tokenizer(tokenizer.backend)
    vocabulary = gguf_tokenizer(again, again.vocab_size)
    assert (vocabulary.tokens[-1], vocabulary.types[-1]) == ("<think>", USER_DEFINED)


def test_normalization_that_llama_cpp_leaves_out_is_said():
    tokenizer = byte_level(TEXT * 5, lines(LINE_SPLITS[1]))
    tokenizer.backend.normalizer = normalizers.NFC()
    assert "NFC" in gguf_tokenizer(Tokenizer(tokenizer.backend), tokenizer.vocab_size).notes[0]


def with_normalizer() -> Tokenizer:
    tokenizer = byte_level(TEXT, lines(LINE_SPLITS[1]))
    tokenizer.backend.normalizer = normalizers.Lowercase()
    return Tokenizer(tokenizer.backend)


REFUSED = {
    "unigram": (lambda: Tokenizer(tokenizers.Tokenizer(models.Unigram([("a", -1.0), ("b", -2.0)]))), "its model is"),
    "another pattern": (lambda: byte_level(TEXT, lines(r"\w+|\W+")), "no name for how it splits"),
    "merges across words": (
        lambda: byte_level(TEXT, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)),
        "no name for how it splits",
    ),
    "a blank before each text": (
        lambda: byte_level(TEXT, pre_tokenizers.ByteLevel(add_prefix_space=True)),
        "no name for how it splits",
    ),
    "lower case": (with_normalizer, "changes the text first"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_what_it_cannot_hold_exactly_is_refused_in_words(make, words):
    tokenizer = make()
    with pytest.raises(UsageError, match=words):
        gguf_tokenizer(tokenizer, tokenizer.vocab_size)
