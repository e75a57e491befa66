"""The bytes that each token adds to a text, which a grammar over bytes needs."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gptcli.errors import TokenizerError

if TYPE_CHECKING:
    from gptcli.tokenizer.tokenizer import Tokenizer

JOINING_DECODERS = ("ByteLevel", "Fuse", "ByteFallback", "Metaspace", "Replace", "Strip", "WordPiece")
"""Decoders under which a token adds the same bytes wherever it stands in a text."""
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""The name of a token that is one byte, for the decoder ByteFallback."""
TRIED_PAIRS = 200
"""Pairs of tokens whose text is compared with the texts of the two."""


class TokenTexts:
    """The bytes of every token of a tokenizer, as it adds them to a text that has already begun."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Find the bytes of all tokens.

        Raises:
            TokenizerError: a token's text depends on the tokens around it.
        """
        self.tokenizer = tokenizer
        self.context: list[int] = []
        """Ids to be read before a text, so that its first token adds the same bytes as later ones."""
        spec = tokenizer.spec()
        if tokenizer.is_byte_level:
            bytes_of_id: Mapping[int, bytes] = tokenizer.bytes_of_id
        else:
            require_joining(spec.get("decoder"))
            self.context = [anchor(tokenizer)]
            bytes_of_id = self.decoded_tokens(has_byte_tokens="ByteFallback" in decoder_types(spec.get("decoder")))
        self.tokens = [
            b"" if id == tokenizer.unk_id else bytes_of_id.get(id, b"") for id in range(tokenizer.vocab_size)
        ]
        """By id; empty for tokens that add nothing, and for the one that stands for unknown characters."""
        if not tokenizer.is_byte_level:
            self.compare_pairs()

    def decoded_tokens(self, *, has_byte_tokens: bool) -> dict[int, bytes]:
        """Return the bytes of the tokens of a decoder other than ByteLevel."""
        backend, before = self.tokenizer.backend, self.tokenizer.decode(self.context)
        found = {}
        for name, id in backend.get_vocab().items():
            if id in self.tokenizer.special_ids:
                continue
            if has_byte_tokens and (match := BYTE_TOKEN.fullmatch(name)):
                found[id] = bytes([int(match[1], 16)])
            else:
                found[id] = self.tokenizer.decode([*self.context, id])[len(before) :].encode(errors="replace")
        return found

    def compare_pairs(self) -> None:
        """Require that pairs of tokens have the bytes of the two, since a decoder may join tokens by rules."""
        ids = [id for id, token in enumerate(self.tokens) if is_text(token)]
        before, choose = self.tokenizer.decode(self.context), random.Random(0)
        for _ in range(TRIED_PAIRS if ids else 0):
            pair = choose.choices(ids, k=2)
            expected = before + "".join(self.tokens[id].decode() for id in pair)
            if self.tokenizer.decode([*self.context, *pair]) != expected:
                raise not_joining()

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """The id of each token's bytes."""
        return {token: id for id, token in enumerate(self.tokens) if token}

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest token."""
        return max(map(len, self.tokens), default=0)

    def encode(self, text: bytes) -> list[int]:
        """Return ids whose bytes are `text`: the tokenizer's own if they are, otherwise the longest tokens that fit.

        Bytes that no token begins with end the ids.
        """
        before = self.context
        try:
            ids = self.tokenizer.encode((self.tokenizer.decode(before) if before else "") + text.decode())
        except (UnicodeDecodeError, TokenizerError):
            ids = []
        if ids[: len(before)] == before and b"".join(self.tokens[id] for id in ids[len(before) :]) == text:
            return ids[len(before) :]
        return self.longest_tokens(text)

    def longest_tokens(self, text: bytes) -> list[int]:
        """Return the ids of the longest tokens that fit, one after the other."""
        ids, start = [], 0
        while start < len(text):
            ends = range(min(len(text), start + self.longest), start, -1)
            end = next((end for end in ends if text[start:end] in self.ids), None)
            if end is None:
                break
            ids.append(self.ids[text[start:end]])
            start = end
        return ids


def decoder_types(decoder: Mapping[str, Any] | None) -> list[str]:
    """Return the types of a decoder's parts; none where there is no decoder."""
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [name for part in decoder["decoders"] for name in decoder_types(part)]
    return [decoder["type"]]


def require_joining(decoder: Mapping[str, Any] | None) -> None:
    """Require a decoder under which each token adds its own text to what was before.

    Raises:
        TokenizerError: it is another.
    """
    parts = decoder["decoders"] if decoder and decoder["type"] == "Sequence" else [decoder] if decoder else []
    for part in parts:
        changes_ends = part["type"] == "Strip" and part.get("stop")
        if (
            part["type"] not in JOINING_DECODERS
            or changes_ends
            or (part["type"] == "WordPiece" and part.get("cleanup"))
        ):
            raise not_joining()


def not_joining() -> TokenizerError:
    """Return the error for a tokenizer whose tokens have no text of their own."""
    return TokenizerError(
        "this tokenizer's tokens have no text of their own, so a grammar cannot say which may follow",
        "generate without a grammar",
    )


def anchor(tokenizer: Tokenizer) -> int:
    """Return a token with a visible text.

    Raises:
        TokenizerError: there is none.
    """
    texts = {
        id: tokenizer.decode([id])
        for id in range(tokenizer.vocab_size)
        if id not in tokenizer.special_ids and id != tokenizer.unk_id
    }
    visible = [id for id, text in texts.items() if text.isalnum()]
    if not visible:
        raise not_joining()
    return next((id for id in visible if tokenizer.encode(texts[id]) == [id]), visible[0])


def is_text(token: bytes) -> bool:
    """Return whether these are whole characters."""
    try:
        return bool(token.decode())
    except UnicodeDecodeError:
        return False
