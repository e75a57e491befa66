"""The size of a text under a compressor: a baseline for bits per byte."""

from __future__ import annotations

import lzma
from typing import NamedTuple

from gptcli.data.shards import TokenShards
from gptcli.tokenizer.tokenizer import Tokenizer

MOST_BYTES = 2_000_000
"""The prefix of a text that is compressed, which takes about three seconds of a CPU and 25 MB of memory."""
LEAST_DICTIONARY = 4096
"""Bytes, by liblzma's limit."""
MOST_LOST = 0.001
"""The largest difference in length between a text and its decoded tokens, as a fraction of the text's bytes."""
LOST_TEXT = "the tokenizer does not give the text back"
LEAST_BYTES = 1000
"""The fewest bytes of a text: xz's headers take about 72 bytes, which would count too much in a shorter one."""
SHORT_TEXT = f"the figure of a compressor means nothing below {LEAST_BYTES:,} bytes"


def xz_bits_per_byte(text: bytes) -> float:
    """Return the bits per byte of `xz -9` for a text of at least one byte.

    The dictionary is as large as the text instead of preset 9's 64 MiB, which gives the same bytes for a text of up to
    that size and takes far less memory.
    """
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": max(len(text), LEAST_DICTIONARY)}]
    return 8 * len(lzma.compress(text, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=filters)) / len(text)


class CompressionBaseline(NamedTuple):
    """The size of a text under `xz -9`.

    Attributes:
        bits_per_byte: None if it is not given, for a `reason`.
        bytes: how many bytes were compressed: all, or a prefix if it `is_cut`.
    """

    bits_per_byte: float | None
    bytes: int = 0
    is_cut: bool = False
    reason: str = ""

    @property
    def text(self) -> str:
        """The compressed text in words."""
        return f"the first {self.bytes / 1e6:.3g} MB of this text" if self.is_cut else "the same text"


class TextPrefix:
    """The first MOST_BYTES bytes of a text that is added document by document."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.bytes = self.decoded = self.expected = 0
        self.is_cut = False

    @property
    def missing(self) -> int:
        """The bytes that may still be added."""
        return MOST_BYTES - self.bytes

    def add(self, text: str, size: int) -> None:
        """Add a document of `size` UTF-8 bytes; the `text` decoded from its tokens may have another number."""
        if not self.is_cut:
            encoded = text.encode()
            self.decoded, self.expected = self.decoded + len(encoded), self.expected + size
            self.append(encoded)

    def append(self, encoded: bytes) -> None:
        """Add bytes, cut at the limit."""
        self.is_cut = len(encoded) > self.missing
        self.parts.append(encoded[: self.missing])
        self.bytes += len(self.parts[-1])

    def baseline(self) -> CompressionBaseline:
        """Compress the text."""
        if self.bytes < LEAST_BYTES:
            return CompressionBaseline(None, reason=SHORT_TEXT)
        if abs(self.decoded - self.expected) > MOST_LOST * self.expected:
            return CompressionBaseline(None, reason=LOST_TEXT)
        return CompressionBaseline(xz_bits_per_byte(b"".join(self.parts)), self.bytes, self.is_cut)


def baseline_of_shards(tokenizer: Tokenizer, shards: TokenShards) -> CompressionBaseline:
    """Return the baseline of a split, decoded from its tokens; reads hardly more than is compressed."""
    prefix = TextPrefix()
    for number in range(shards.documents):
        (start, stop), size = shards.document_bounds(number), shards.document_bytes(number)
        if size > 2 * prefix.missing:
            part = (stop - start) * 2 * prefix.missing // size  # twice what is missing, since tokens may be shorter
            prefix.append(tokenizer.decode(shards.read(start, start + part)).encode())
            prefix.is_cut = True
        else:
            prefix.add(tokenizer.decode(shards.read(start, stop)), size)
        if prefix.is_cut:
            break
    return prefix.baseline()
