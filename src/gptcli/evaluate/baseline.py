"""The size of a text under a compressor that learns nothing in advance: a baseline for bits per byte."""

from __future__ import annotations

import lzma
from typing import NamedTuple

from gptcli.data.shards import TokenShards
from gptcli.tokenizer.tokenizer import Tokenizer

MOST_BYTES = 2_000_000
"""So much of the beginning of a text is compressed: about three seconds of a CPU, and 25 MB of memory."""
LEAST_DICTIONARY = 4096
"""Bytes; liblzma's limit."""
MOST_LOST = 0.001
"""Part of the bytes by which a decoded text may be longer or shorter than the text was."""
LOST_TEXT = "the tokenizer does not give the text back"
LEAST_BYTES = 1000
"""xz's headers take 72 bytes or so, which would make it look bad on less text."""
SHORT_TEXT = f"the figure of a compressor means nothing below {LEAST_BYTES:,} bytes"


def xz_bits_per_byte(text: bytes) -> float:
    """Bits per byte of what `xz -9` makes of a text of at least one byte.

    The dictionary is as large as the text instead of preset 9's 64 MiB, which gives the same bytes for a text of up to
    that size and takes far less memory.
    """
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": max(len(text), LEAST_DICTIONARY)}]
    return 8 * len(lzma.compress(text, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=filters)) / len(text)


class CompressionBaseline(NamedTuple):
    """`xz -9` of a text, or of its first `bytes` bytes if it `is_cut`; `bits_per_byte` is None for a `reason`."""

    bits_per_byte: float | None
    bytes: int = 0
    is_cut: bool = False
    reason: str = ""

    @property
    def text(self) -> str:
        """The text that was compressed, in words."""
        return f"the first {self.bytes / 1e6:.3g} MB of this text" if self.is_cut else "the same text"


class TextPrefix:
    """The beginning of a text that is added document by document, up to MOST_BYTES bytes of it."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.bytes = self.decoded = self.expected = 0
        self.is_cut = False

    @property
    def missing(self) -> int:
        """Bytes that may still be added."""
        return MOST_BYTES - self.bytes

    def add(self, text: str, size: int) -> None:
        """Add a document of `size` UTF-8 bytes; `text` has others where decoding its tokens did not give it back."""
        if not self.is_cut:
            encoded = text.encode()
            self.decoded, self.expected = self.decoded + len(encoded), self.expected + size
            self.append(encoded)

    def append(self, encoded: bytes) -> None:
        self.is_cut = len(encoded) > self.missing
        self.parts.append(encoded[: self.missing])
        self.bytes += len(self.parts[-1])

    def baseline(self) -> CompressionBaseline:
        """Compress what was added."""
        if self.bytes < LEAST_BYTES:
            return CompressionBaseline(None, reason=SHORT_TEXT)
        if abs(self.decoded - self.expected) > MOST_LOST * self.expected:
            return CompressionBaseline(None, reason=LOST_TEXT)
        return CompressionBaseline(xz_bits_per_byte(b"".join(self.parts)), self.bytes, self.is_cut)


def baseline_of_shards(tokenizer: Tokenizer, shards: TokenShards) -> CompressionBaseline:
    """`xz -9` of the text of a split, decoded from its tokens; reads hardly more of it than is compressed."""
    prefix = TextPrefix()
    for number in range(shards.documents):
        (start, stop), size = shards.document_bounds(number), shards.document_bytes(number)
        if size > 2 * prefix.missing:
            part = (stop - start) * 2 * prefix.missing // size  # twice as much as is missing, should tokens be shorter
            prefix.append(tokenizer.decode(shards.read(start, start + part)).encode())
            prefix.is_cut = True
        else:
            prefix.add(tokenizer.decode(shards.read(start, stop)), size)
        if prefix.is_cut:
            break
    return prefix.baseline()
