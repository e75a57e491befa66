"""The byte alphabet equals that of the library."""

from __future__ import annotations

from tokenizers import decoders, pre_tokenizers

from gptcli.tokenizer.byte_level import BYTE_OF_CHARACTER, CHARACTER_OF_BYTE, token_bytes


def test_the_alphabet_is_the_library_s_in_gpt2_s_order() -> None:
    assert list(BYTE_OF_CHARACTER) == sorted(pre_tokenizers.ByteLevel.alphabet())


def test_every_byte_is_written_as_the_library_writes_it() -> None:
    for text in (chr(code) for code in (*range(0x80), 0xE9, 0x4E2D, 0x1F642)):
        ((written, _),) = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
        assert written == "".join(CHARACTER_OF_BYTE[byte] for byte in text.encode())
        assert token_bytes(written) == text.encode()


def test_token_bytes_are_what_the_library_decodes() -> None:
    for token in ("Ġthe", "Ã©", "two words", "日本", "a日"):
        assert token_bytes(token).decode() == decoders.ByteLevel().decode([token])
