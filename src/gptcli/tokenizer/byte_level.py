"""The byte-level alphabet, in which tokenizers write bytes as visible characters.

JSON and merge lists cannot hold arbitrary bytes, so GPT-2 (Radford et al. 2019) wrote every byte as one character:
printable Latin-1 characters stand for themselves, the 68 others (controls, spaces, the soft hyphen) become U+0100
onwards.
"""

from __future__ import annotations

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

PRINTABLE = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))
HIDDEN = tuple(byte for byte in range(256) if byte not in PRINTABLE)

BYTE_OF_CHARACTER: dict[str, int] = {chr(byte): byte for byte in PRINTABLE} | {
    chr(256 + place): byte for place, byte in enumerate(HIDDEN)
}
"""The bytes in the order of GPT-2's vocabulary, whose first 256 tokens are these characters."""

CHARACTER_OF_BYTE: dict[int, str] = {byte: character for character, byte in BYTE_OF_CHARACTER.items()}


def token_bytes(token: str) -> bytes:
    """Return the bytes that a token of a byte-level vocabulary stands for.

    A token with a character outside the alphabet, such as an added token with a space in it, stands for its own UTF-8,
    as in the ByteLevel decoder of `tokenizers`.
    """
    try:
        return bytes(BYTE_OF_CHARACTER[character] for character in token)
    except KeyError:
        return token.encode()


def byte_level_tokenizer(model: models.BPE, *, split_words: bool) -> tokenizers.Tokenizer:
    """Return a tokenizer over bytes; `split_words` cuts the text by GPT-2's pattern before the merges."""
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split_words)
    backend.decoder = decoders.ByteLevel()
    return backend
