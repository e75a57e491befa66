"""Encoding and decoding, for every kind of tokenizer."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from gptcli.errors import TokenizerError
from gptcli.tokenizer.config import CharTokenizerConfig
from gptcli.tokenizer.tokenizer import Tokenizer, load_tokenizer
from gptcli.tokenizer.train import build_tokenizer


def test_bytes_and_bpe_give_back_every_text_exactly(byte: Tokenizer, bpe: Tokenizer, hard_texts: tuple) -> None:
    for tokenizer in (byte, bpe):
        for text in hard_texts:
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_char_gives_back_every_text_of_its_characters_exactly(hard_texts: tuple) -> None:
    tokenizer = build_tokenizer(CharTokenizerConfig(), lambda: iter(hard_texts))
    for text in hard_texts:
        ids = tokenizer.encode(text)
        assert len(ids) == len(text) and tokenizer.unk_id not in ids
        assert tokenizer.decode(ids) == text


def test_char_maps_each_unseen_character_to_unk(char: Tokenizer) -> None:
    assert "ö" not in "".join(map(char.token_text, range(char.vocab_size)))
    a, unk = char.encode("a")[0], char.unk_id
    assert char.encode("aöö\U0001f642a") == [a, unk, unk, unk, a]
    assert char.decode([a, unk, a]) == "aa", "special tokens are kept out of the text"


def test_a_literal_special_token_is_text_unless_asked(tokenizer: Tokenizer) -> None:
    text = "said<|endoftext|>the"
    plain = tokenizer.encode(text)
    assert tokenizer.eos_id not in plain
    assert plain == tokenizer.encode_batch([text])[0].tolist()
    if tokenizer.name != "char":
        assert tokenizer.decode(plain) == text
    special = tokenizer.encode(text, allow_special=True)
    assert special == [*tokenizer.encode("said"), tokenizer.eos_id, *tokenizer.encode("the")]
    assert tokenizer.encode(text) == plain, "asking once changes nothing"


def test_saving_and_loading_keeps_ids_decoding_and_literal_special_tokens(
    tokenizer: Tokenizer, tmp_path: Path, hard_texts: tuple
) -> None:
    tokenizer.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    for loaded in (load_tokenizer(tmp_path), load_tokenizer(tmp_path / "tokenizer.json")):
        for attribute in ("name", "vocab_size", "eos_id", "bos_id", "unk_id", "fingerprint", "adds_bos"):
            assert getattr(loaded, attribute) == getattr(tokenizer, attribute), attribute
        for text in (*hard_texts, "<|endoftext|>"):
            ids = tokenizer.encode(text)
            assert loaded.encode(text) == ids
            assert loaded.encode(text, allow_special=True) == tokenizer.encode(text, allow_special=True)
            assert loaded.decode(ids) == tokenizer.decode(ids)


def test_fingerprints_differ_where_ids_may(char: Tokenizer, byte: Tokenizer, bpe: Tokenizer) -> None:
    backend = tokenizers.Tokenizer.from_str(byte.backend.to_str())
    same_with_other_end = Tokenizer(backend, {"eos_token": None, "bos_token": None})
    fingerprints = {each.fingerprint for each in (char, byte, bpe, same_with_other_end)}
    assert len(fingerprints) == 4 and all(len(each) == 64 for each in fingerprints)


def test_the_end_of_text_begins_a_document_too_and_is_not_added_to_texts(tokenizer: Tokenizer) -> None:
    assert tokenizer.bos_id == tokenizer.eos_id and not tokenizer.adds_bos


def test_a_batch_has_the_ids_of_its_texts_one_by_one(tokenizer: Tokenizer, hard_texts: tuple) -> None:
    batch = tokenizer.encode_batch(hard_texts)
    assert all(ids.dtype == np.uint32 for ids in batch)
    assert [ids.tolist() for ids in batch] == [
        tokenizer.backend.encode(text, add_special_tokens=False).ids for text in hard_texts
    ]
    assert tokenizer.encode_batch([]) == []


def test_threads_that_ask_for_special_tokens_and_not_do_not_disturb_each_other(bpe: Tokenizer) -> None:
    text = "the<|endoftext|>miller"
    expected = {allow: bpe.encode(text, allow_special=allow) for allow in (True, False)}
    with ThreadPoolExecutor(4) as pool:
        wanted = [bool(number % 2) for number in range(400)]
        results = list(pool.map(lambda allow: bpe.encode(text, allow_special=allow), wanted))
    assert results == [expected[allow] for allow in wanted]


def test_decode_takes_lists_and_arrays_and_leaves_out_ids_beyond_the_vocabulary(bpe: Tokenizer) -> None:
    ids = bpe.encode("the miller")
    assert bpe.decode(np.array(ids, dtype=np.uint32)) == bpe.decode(tuple(ids)) == "the miller"
    assert bpe.decode([*ids, bpe.vocab_size + 5, bpe.eos_id]) == "the miller"
    assert bpe.decode([]) == ""


def test_token_text_shows_what_a_token_stands_for(char: Tokenizer, byte: Tokenizer, bpe: Tokenizer) -> None:
    assert char.token_text(char.encode("m")[0]) == "m"
    assert [byte.token_text(id) for id in (0x41, 0x20, 0x0A, 0xC3, 256)] == ["A", " ", "\n", "\\xc3", "<|endoftext|>"]
    assert "".join(map(bpe.token_text, bpe.encode("and said\nthe miller"))) == "and said\nthe miller"
    for wrong in (-1, bpe.vocab_size):
        with pytest.raises(TokenizerError, match=f"id {wrong} is not in the vocabulary"):
            bpe.token_text(wrong)


@pytest.mark.parametrize(
    ("text", "words"), [("the 🙂ö", "'🙂' (U+1F642), character 5"), ("\x00", r"'\x00' (U+0000), char")]
)
def test_a_text_that_char_cannot_represent_is_refused_by_its_first_character(
    char: Tokenizer, text: str, words: str
) -> None:
    with pytest.raises(TokenizerError) as caught:
        char.require_representable(text)
    assert words in str(caught.value)


def test_what_can_be_represented_passes(char: Tokenizer, byte: Tokenizer, bpe: Tokenizer, hard_texts: tuple) -> None:
    char.require_representable("the miller's daughter")
    for text in hard_texts:
        byte.require_representable(text)
        bpe.require_representable(text)


def test_a_surrogate_is_one_clear_error(tokenizer: Tokenizer) -> None:
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_batch(["fine", text])):
        with pytest.raises(TokenizerError, match=r"surrogate U\+DC80"):
            encode("the \udc80")


def test_a_process_forked_after_encoding_in_parallel_encodes_too_without_a_warning() -> None:
    code = (
        "import os\n"
        "from gptcli.tokenizer.train import train_bpe\n"
        "tokenizer = train_bpe(iter(['a text ' * 9]), 258, 2)\n"
        "tokenizer.encode_batch(['a text'] * 64)\n"
        "child = os.fork()\n"
        "ids = tokenizer.encode_batch(['a text'] * 9_999)\n"
        "assert tokenizer.encoder.fast is not None\n"
        "if child == 0: os._exit(len(ids) % 255)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, timeout=60)
    assert (result.stdout.strip(), result.stderr) == ("54", "")
