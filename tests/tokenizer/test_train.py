"""The tokenizers of each kind that the training texts give."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest
import regex
from tokenizers import ByteLevelBPETokenizer, Regex, pre_tokenizers

from gptcli.errors import TokenizerError
from gptcli.tokenizer.config import BpeTokenizerConfig, ByteTokenizerConfig, CharTokenizerConfig
from gptcli.tokenizer.tokenizer import Tokenizer
from gptcli.tokenizer.train import DOCUMENT_CHARACTERS, TRAINING_WORD, WORD_CHARACTERS, build_tokenizer, training_pieces

GPT2_PATTERN = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def merges_of(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads(tokenizer.backend.to_str())["model"]["merges"]]


def test_char_numbers_characters_in_code_point_order_then_the_special_tokens(char: Tokenizer, prose: tuple) -> None:
    characters = sorted(set("".join(prose)))
    assert char.name == "char" and char.vocab_size == len(characters) + 2
    assert char.encode("".join(characters)) == list(range(len(characters)))
    assert (char.unk_id, char.eos_id) == (len(characters), len(characters) + 1)
    assert [char.token_text(id) for id in (char.unk_id, char.eos_id)] == ["<unk>", "<|endoftext|>"]


def test_char_does_not_depend_on_the_order_of_the_texts(char: Tokenizer, prose: tuple) -> None:
    other = build_tokenizer(CharTokenizerConfig(), lambda: iter(reversed(prose)))
    assert other.fingerprint == char.fingerprint


def test_char_without_text_is_refused() -> None:
    with pytest.raises(TokenizerError, match="no text to train"):
        build_tokenizer(CharTokenizerConfig(), lambda: iter(["", ""]))


def test_byte_ids_are_the_bytes_themselves(byte: Tokenizer, hard_texts: tuple) -> None:
    assert (byte.name, byte.vocab_size, byte.eos_id, byte.unk_id) == ("byte", 257, 256, None)
    for text in hard_texts:
        assert byte.encode(text) == list(text.encode())


def test_byte_reads_no_text() -> None:
    def no_text() -> Iterator[str]:
        raise AssertionError("the byte tokenizer learns nothing")

    assert build_tokenizer(ByteTokenizerConfig(), no_text).vocab_size == 257


def test_bpe_size_counts_bytes_merges_and_the_special_token_which_is_last(bpe: Tokenizer) -> None:
    assert (bpe.name, bpe.vocab_size, bpe.eos_id, bpe.unk_id) == ("bpe", 340, 339, None)
    assert len(merges_of(bpe)) == 340 - 257
    assert sorted(bpe.bytes_of_id[id] for id in range(256)) == [bytes([byte]) for byte in range(256)]
    assert sorted(bpe.backend.get_vocab().values()) == list(range(340)), "no id is left out"


def test_every_bpe_merge_was_the_most_frequent_pair_of_its_time(bpe: Tokenizer, prose: tuple) -> None:
    """Sennrich et al. 2016, algorithm 1, replayed naively over GPT-2's words."""
    character_of = {data: token for token, data in vocabulary_bytes(bpe).items() if len(data) == 1}
    words = Counter(word for text in prose for word in GPT2_PATTERN.findall(text))
    splits = {word: [character_of[bytes([byte])] for byte in word.encode()] for word in words}
    for merge in merges_of(bpe):
        counts: Counter = Counter()
        for word, parts in splits.items():
            for pair in itertools.pairwise(parts):
                counts[pair] += words[word]
        assert counts[merge] == max(counts.values()) >= 2
        splits = {word: merged(parts, merge) for word, parts in splits.items()}


def vocabulary_bytes(tokenizer: Tokenizer) -> dict[str, bytes]:
    return {tokenizer.backend.id_to_token(id): data for id, data in tokenizer.bytes_of_id.items()}


def merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    result: list[str] = []
    for part in parts:
        if result and (result[-1], part) == pair:
            result[-1] += part
        else:
            result.append(part)
    return result


def test_a_long_document_gives_the_same_merges_as_the_library_finds_uncut(random_text) -> None:
    long_text = " ".join(random_text(seed, 200) for seed in range(60)) * 12
    assert len(long_text) > 200_000, "longer than several pieces"
    ours = build_tokenizer(BpeTokenizerConfig(vocab_size=500), lambda: iter([long_text]))
    theirs = ByteLevelBPETokenizer(add_prefix_space=False)
    theirs.train_from_iterator([long_text], vocab_size=499, min_frequency=2, show_progress=False)
    assert merges_of(ours) == [tuple(pair) for pair in json.loads(theirs.to_str())["model"]["merges"]]


def test_bpe_is_the_same_in_every_process(bpe: Tokenizer, prose: tuple) -> None:
    code = (
        "import sys, json\n"
        "from gptcli.tokenizer.train import build_tokenizer\n"
        "from gptcli.tokenizer.config import BpeTokenizerConfig\n"
        "texts = json.load(sys.stdin)\n"
        "print(build_tokenizer(BpeTokenizerConfig(vocab_size=340), lambda: iter(texts)).fingerprint)\n"
    )
    for seed, threads in (("1", "1"), ("2", "2")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads}
        output = subprocess.run(
            [sys.executable, "-c", code], input=json.dumps(prose), env=environment, text=True, capture_output=True
        )
        assert output.stdout.strip() == bpe.fingerprint, output.stderr


def test_a_corpus_too_small_gives_a_smaller_vocabulary_and_a_message(capsys: pytest.CaptureFixture) -> None:
    tokenizer = build_tokenizer(BpeTokenizerConfig(vocab_size=1000), lambda: iter(["abab abab"]))
    assert tokenizer.vocab_size < 270 and tokenizer.eos_id == tokenizer.vocab_size - 1
    said = capsys.readouterr()
    assert f"{tokenizer.vocab_size:,}" in said.err and "1,000" in said.err
    assert said.out == ""


def test_a_corpus_with_nothing_to_merge_still_gives_a_bpe_tokenizer_of_bytes() -> None:
    tokenizer = build_tokenizer(BpeTokenizerConfig(vocab_size=300), lambda: iter(["abc"]))
    assert (tokenizer.name, tokenizer.vocab_size) == ("bpe", 257)
    assert tokenizer.decode(tokenizer.encode("né")) == "né"


def test_rarer_pairs_than_min_frequency_are_not_merged(prose: tuple) -> None:
    config = BpeTokenizerConfig(vocab_size=2000, min_frequency=30)
    rare = build_tokenizer(config, lambda: iter(prose))
    often = build_tokenizer(BpeTokenizerConfig(vocab_size=2000), lambda: iter(prose))
    assert 257 < rare.vocab_size < often.vocab_size


@pytest.mark.parametrize("config", [CharTokenizerConfig(), BpeTokenizerConfig(vocab_size=300)])
def test_an_error_while_reading_the_texts_reaches_the_caller_unchanged(config) -> None:
    class ReadError(Exception):
        pass

    def texts() -> Iterator[str]:
        yield "a text"
        raise ReadError("line 7")

    with pytest.raises(ReadError, match="line 7"):
        build_tokenizer(config, texts)


def test_training_treats_text_that_looks_like_the_special_token_as_text() -> None:
    tokenizer = build_tokenizer(BpeTokenizerConfig(vocab_size=300), lambda: iter(["<|endoftext|> " * 50]))
    ids = tokenizer.encode("<|endoftext|>")
    assert tokenizer.eos_id not in ids and tokenizer.decode(ids) == "<|endoftext|>"


def test_words_of_ordinary_length_are_split_for_training_as_gpt2_splits_them(hard_texts: tuple, random_text) -> None:
    bounded = pre_tokenizers.Split(Regex(TRAINING_WORD), "isolated")
    uncut = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in (
        *hard_texts,
        *(random_text(seed, 2000) for seed in range(40, 60)),
        "a" * WORD_CHARACTERS + " 12 !? \n",
    ):
        offsets = [span for _, span in bounded.pre_tokenize_str(text)]
        assert offsets == [span for _, span in uncut.pre_tokenize_str(text)]


LONG_WORDS = {
    "one letter": "a",
    "DNA": "ACGT",
    "base64": "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    "digits": "0123456789",
    "blanks": " ",
    "newlines": "\n",
    "blanks and newlines": " \t\n",
    "punctuation": "!#$%&*+,-./:;<=>?@",
    "Han": "".join(map(chr, range(0x4E00, 0x4F00))),
    "combining marks": "\u0300\u0301\u0302\u0303\u0308",
}


@pytest.mark.parametrize("alphabet", LONG_WORDS.values(), ids=LONG_WORDS)
def test_a_text_without_word_ends_is_trained_on_in_linear_time(alphabet: str) -> None:
    """Quadratic time took 11 s for 200,000 letters of DNA, and 52 s for 400,000."""
    text = "".join(random.Random(0).choices(alphabet, k=200_000))
    began = time.process_time()
    tokenizer = build_tokenizer(BpeTokenizerConfig(vocab_size=400), lambda: iter([text]))
    assert time.process_time() - began < 6
    assert tokenizer.vocab_size == 400 or len(alphabet) == 1
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and len(ids) < len(text.encode())
    assert max(len(data) for data in tokenizer.bytes_of_id.values()) <= len(max(alphabet).encode()) * WORD_CHARACTERS


def test_a_document_without_word_ends_is_handed_over_in_pieces() -> None:
    text = "a" * (2 * DOCUMENT_CHARACTERS + 5)
    sizes = [len(piece) for piece in training_pieces(f"some words {text}")]
    assert sum(sizes) == len(text) + 11 and max(sizes) == DOCUMENT_CHARACTERS
