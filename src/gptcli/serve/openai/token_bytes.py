"""Texts, bytes and places of the tokens of a text."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gptcli.generate.sample import TokenText
from gptcli.tokenizer.tokenizer import Tokenizer

FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""A token of one byte in vocabularies that have no alphabet of bytes."""


class TokenBytes:
    """What the tokens of a tokenizer add to a text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.found: dict[int, bytes] = {}

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes that a token adds to a text after other text; none for a special token."""
        tokenizer = self.tokenizer
        if tokenizer.is_byte_level:
            return tokenizer.bytes_of_id.get(token, b"")
        if token not in self.found:
            self.found[token] = self.decoded(token)
        return self.found[token]

    def decoded(self, token: int) -> bytes:
        """Return the bytes of a token of a tokenizer that is not byte-level: the second of two, since decoders treat
        the first differently.
        """
        byte = FALLBACK.fullmatch(self.tokenizer.backend.id_to_token(token) or "")
        if byte:
            return bytes.fromhex(byte[1])
        return self.tokenizer.decode([token, token]).removeprefix(self.tokenizer.decode([token])).encode()

    def is_special(self, token: int) -> bool:
        """Return whether a token adds nothing to a text but is known by its name."""
        return token in self.tokenizer.special_ids

    def name(self, token: int) -> str:
        r"""Return a token as OpenAI's older form writes it: its text, "bytes:\xe2\x82" if that is no whole character,
        or the name of a special token.
        """
        if self.is_special(token):
            return self.tokenizer.backend.id_to_token(token) or ""
        return named(self.bytes_of(token))


class PlacedPiece(NamedTuple):
    """The bytes of a token in a text, and the character in which or before which they begin."""

    bytes: bytes
    start: int


class PieceReader:
    """Reads the tokens of one text as it grows.

    The bytes of its tokens, joined, are the text's UTF-8. Only where the tokens are no UTF-8, and the text therefore
    has U+FFFD, are they the bytes of the tokens instead.

    Attributes:
        offset: characters of the text so far.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.texts = TokenBytes(tokenizer)
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.offset = 0

    def skip(self, ids: Iterable[int]) -> None:
        """Read the ids before the text, which may end within a character that the text completes."""
        for token in ids:
            self.decoder.decode(self.texts.bytes_of(token))

    def read_prompt(self, ids: Sequence[int]) -> tuple[str, list[PlacedPiece]]:
        """Return the text of a prompt, and its tokens. An incomplete character at its end is left out of the text,
        since the tokens after the prompt may complete it.
        """
        stream = self.texts.tokenizer.decode_stream()
        pieces = [stream.step(token) for token in ids]
        placed = [self.read(TokenText([token], piece, [], []))[0] for token, piece in zip(ids, pieces, strict=True)]
        return "".join(pieces), placed

    def read(self, grown: TokenText) -> list[PlacedPiece]:
        """Return the tokens by which the text has grown."""
        raw, emitted, placed = [self.texts.bytes_of(token) for token in grown.ids], "", list[PlacedPiece]()
        for piece in raw:
            start = self.offset + len(emitted) + characters_before(self.decoder.getstate()[0], piece)
            placed.append(PlacedPiece(piece, start))
            emitted += self.decoder.decode(piece)
        if placed and emitted != grown.text:
            at_end = emitted + self.decoder.getstate()[0].decode(
                errors="replace"
            )  # an incomplete character is its last
            placed = placed if at_end == grown.text else self.fitted(placed, emitted, grown.text)
            self.decoder.reset()
        self.offset += len(grown.text)
        return placed

    def fitted(self, placed: list[PlacedPiece], emitted: str, text: str) -> list[PlacedPiece]:
        """Return tokens as far as they belong to a text, of which they alone would make `emitted`."""
        *before, last = placed
        rest = emitted[len(text) :].encode() + self.decoder.getstate()[0]
        if rest and emitted.startswith(text) and last.bytes.endswith(rest):  # it ends before a stop string
            return [*before, PlacedPiece(last.bytes[: -len(rest)], last.start)]
        return [*(PlacedPiece(b"", self.offset) for _ in before), PlacedPiece(text.encode(), self.offset)]


def characters_before(pending: bytes, piece: bytes) -> int:
    """Return 1 if an incomplete character ends before `piece` begins, and 0 if it goes on in it or there is none."""
    is_apart = (pending + piece).decode(errors="replace") == "\ufffd" + piece.decode(errors="replace")
    return int(bool(pending) and is_apart)


def named(piece: bytes) -> str:
    r"""Return bytes as OpenAI's older form writes them: a text, or "bytes:\xe2\x82"."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def escaped(piece: bytes) -> str:
    r"""Return bytes as a text, with those that are no whole character as \xe2."""
    return piece.decode(errors="backslashreplace")
