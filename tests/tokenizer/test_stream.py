"""Streams: whole characters only, whose concatenation is exactly the result of decode."""

from __future__ import annotations

import random

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from gptcli.tokenizer.byte_level import byte_level_tokenizer
from gptcli.tokenizer.tokenizer import Tokenizer


def stream(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = tokenizer.decode_stream()
    return [*(decoder.step(id) for id in ids), decoder.finish()]


def random_ids(tokenizer: Tokenizer, seed: int) -> list[int]:
    """Ids of every kind: text, lone bytes of every class, specials, and beyond the vocabulary."""
    source = random.Random(seed)
    pools = (
        range(tokenizer.vocab_size),
        range(min(256, tokenizer.vocab_size)),
        tokenizer.encode("the miller said é 中 🙂 \ufffd"),
        [tokenizer.eos_id, tokenizer.vocab_size + 3],
    )
    return [source.choice(source.choice(pools)) for _ in range(source.randrange(60))]


def test_pieces_joined_are_the_decoded_text_for_any_ids(tokenizer: Tokenizer) -> None:
    invalid = 0
    for seed in range(1500):
        ids = random_ids(tokenizer, seed)
        text = "".join(stream(tokenizer, ids))
        assert text == tokenizer.decode(ids), ids
        invalid += "\ufffd" in text
    assert tokenizer.name == "char" or invalid > 500, "invalid UTF-8 was among them"


def test_pieces_joined_are_the_text_itself(byte: Tokenizer, bpe: Tokenizer, hard_texts: tuple) -> None:
    for tokenizer in (byte, bpe):
        for text in hard_texts:
            pieces = stream(tokenizer, tokenizer.encode(text))
            assert "".join(pieces) == text and pieces[-1] == ""


def test_a_character_comes_with_its_last_byte(byte: Tokenizer) -> None:
    assert stream(byte, list("é🙂".encode())) == ["", "é", "", "", "", "🙂", ""]


def test_an_invalid_byte_holds_nothing_back(byte: Tokenizer) -> None:
    assert stream(byte, [0xFF, 0x41, 0xE2, 0x41, 0xE2]) == ["\ufffd", "A", "", "\ufffdA", "", "\ufffd"]


def test_a_replacement_character_in_the_text_holds_nothing_back(byte: Tokenizer) -> None:
    assert stream(byte, list("\ufffd!".encode())) == ["", "", "\ufffd", "!", ""]


def test_a_special_token_inside_a_character_adds_nothing(byte: Tokenizer) -> None:
    assert stream(byte, [0xC3, byte.eos_id, 0xA9]) == ["", "", "é", ""]


def test_added_tokens_outside_the_byte_alphabet_stand_for_themselves() -> None:
    vocabulary = {character: id for id, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = byte_level_tokenizer(models.BPE(vocabulary, []), split_words=True)
    backend.add_tokens([AddedToken("two words", normalized=False), AddedToken("日本", normalized=False)])
    tokenizer = Tokenizer(backend)
    text = "é two words, 日本!"
    ids = tokenizer.encode(text)
    assert {256, 257} < set(ids)
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids) == text


@pytest.fixture
def metaspace() -> Tokenizer:
    """A vocabulary in the manner of Llama 2: ▁ for spaces, bytes for what it lacks, a leading space taken off."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁the", "▁mill", "er", "s", "."]
    model = models.BPE({word: id for id, word in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return Tokenizer(backend)


def test_a_foreign_decoder_streams_what_it_decodes(metaspace: Tokenizer) -> None:
    def id_of(token: str) -> int:
        return metaspace.backend.token_to_id(token)

    bytes_of_smile = [id_of(f"<0x{byte:02X}>") for byte in "🙂".encode()]
    ids = [id_of("<s>"), id_of("▁the"), id_of("▁mill"), id_of("er"), id_of("▁"), *bytes_of_smile, id_of("s")]
    pieces = stream(metaspace, ids)
    assert "".join(pieces) == metaspace.decode(ids) == "the miller 🙂s"
    assert "\ufffd" not in "".join(pieces)
    assert "".join(stream(metaspace, ids[:-2])) == metaspace.decode(ids[:-2]), "also when it ends within a character"


def test_a_foreign_decoder_streams_any_ids_without_byte_fallback(metaspace: Tokenizer) -> None:
    source = random.Random(0)
    ordinary = [id for id in range(metaspace.vocab_size) if not 3 <= id < 259]
    for _ in range(300):
        ids = [source.choice(ordinary) for _ in range(source.randrange(20))]
        assert "".join(stream(metaspace, ids)) == metaspace.decode(ids)
