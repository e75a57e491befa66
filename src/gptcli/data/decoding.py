"""Decoding of a file into its text, from UTF-8 unless another encoding is configured.

Everything is read in pieces of bounded size, and a file that is not text is refused before it is decoded. Every error
names the file and the place in it.
"""

from __future__ import annotations

import codecs
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from gptcli.console import shell_word
from gptcli.data.compression import is_compressed, read_bytes
from gptcli.data.config import DataConfig
from gptcli.data.encodings import SAMPLE_BYTES, is_damaged_utf8, probable_encoding
from gptcli.data.filetypes import (
    BY_ENDING,
    BYTE_ORDER_MARKS,
    HEAD_BYTES,
    STRIP,
    FileType,
    file_type,
    is_wide,
    not_text_error,
)
from gptcli.errors import DataError

REPLACEMENT = "\ufffd"
MAX_NUL_SHARE = 0.001
"""A file with a larger share of NUL bytes is not text, whatever its first bytes are; a single one is always
accepted."""


@dataclass
class Decoding:
    """The encoding of text files, the treatment of bytes that cannot be decoded, and a count of replaced characters.

    `errors` is "strict" to raise a DataError for bytes that cannot be decoded, or "replace" to decode them as U+FFFD.
    """

    errors: Literal["strict", "replace"] = "strict"
    encoding: str = "utf-8"
    """Python's name of the encoding."""
    replaced: int = 0
    """The number of U+FFFD characters that replaced undecodable bytes."""

    @classmethod
    def of(cls, config: DataConfig) -> Decoding:
        """Return the decoding that a configuration sets."""
        return cls(config.encoding_errors, config.encoding)

    def decoder(self) -> codecs.IncrementalDecoder:
        """Return a decoder of one stream of bytes, whose replacements `decode` counts."""
        return codecs.getincrementaldecoder(self.encoding)("strict" if self.errors == "strict" else COUNTED)

    def decode(self, decoder: codecs.IncrementalDecoder, chunk: bytes, final: bool) -> str:
        """Decode the next bytes of a stream. Raises UnicodeDecodeError if `errors` is strict."""
        before = replacements.count
        text = decoder.decode(chunk, final)
        self.replaced += replacements.count - before
        return text

    def decode_whole(self, content: bytes) -> str:
        """Decode a text that is UTF-8 whatever the encoding of files, as texts in columns are."""
        before = replacements.count
        text = content.decode(errors="strict" if self.errors == "strict" else COUNTED)
        self.replaced += replacements.count - before
        return text

    def without_surrogates(self, text: str) -> str:
        """Return `text` with U+FFFD for each half of a surrogate pair. Raises UnicodeEncodeError if `errors` is
        strict.
        """
        try:
            text.encode()
        except UnicodeEncodeError:
            if self.errors == "strict":
                raise
            characters = [REPLACEMENT if "\ud800" <= character <= "\udfff" else character for character in text]
            self.replaced += sum("\ud800" <= character <= "\udfff" for character in text)
            return "".join(characters)
        return text


class Replacements(threading.local):
    """The number of U+FFFD characters that the error handler COUNTED has inserted in this thread."""

    count = 0


replacements = Replacements()
COUNTED = "gptcli.replace"


def replace_counted(error: UnicodeError) -> tuple[str, int]:
    """Replace and count, as an error handler of codecs."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    replacements.count += 1
    return REPLACEMENT, error.end


codecs.register_error(COUNTED, replace_counted)


def read_text(path: Path, name: str, decoding: Decoding, start: int = 0, stop: int | None = None) -> Iterator[str]:
    """Iterate over the text of a file in chunks, without its byte order mark; line ends are not changed.

    With `stop` only bytes start..stop-1 are read, which begin and end with a character.

    Raises:
        DataError: it is not text, or a byte is not valid in the encoding (the message gives its place, counted from 0,
            after decompression).
    """
    decoder = decoding.decoder()
    is_narrow = not is_wide(decoding.encoding)
    utf8 = Utf8Check(is_narrow and decoding.encoding != "utf-8")
    offset, is_start, nul_bytes = start, start == 0, 0
    for chunk in read_bytes(path, name, start, stop):
        if offset == 0 and (kind := file_type(chunk[:HEAD_BYTES], decoding.encoding)) is not None:
            raise not_text_error(name, kind, is_compressed(path))
        if is_narrow and 0 in chunk:
            nul_bytes += chunk.count(0)
        utf8.add(chunk)
        text = decode(decoding, decoder, chunk, False, offset, name)
        offset += len(chunk)
        if text:
            yield text.removeprefix("\ufeff") if is_start else text
            is_start = False
    if text := decode(decoding, decoder, b"", True, offset, name):
        yield text
    if nul_bytes > max(1, MAX_NUL_SHARE * (offset - start)):
        what = f"not text: {nul_bytes:,} of its {offset - start:,} bytes are NUL"
        raise not_text_error(name, FileType(what, STRIP), is_compressed(path))
    if utf8.is_certain:
        file = PurePath("FILE" if name == "-" else name)
        words = shell_word(file), shell_word(file.with_stem(f"{file.stem}-{decoding.encoding}"))
        raise DataError(
            f"{name} is UTF-8, and data.encoding={decoding.encoding} would misread it",
            "leave data.encoding out, or convert this file: "
            f"iconv -f UTF-8 -t {decoding.encoding.upper()} {words[0]} > {words[1]}",
        )


class Utf8Check:
    """A check whether bytes that come in chunks are UTF-8 with characters beyond ASCII, which no other encoding
    produces by chance.
    """

    def __init__(self, is_wanted: bool) -> None:
        self.is_utf8, self.is_ascii = is_wanted, True
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    @property
    def is_certain(self) -> bool:
        """Whether all the bytes are UTF-8, and some of them are not ASCII."""
        return self.is_utf8 and not self.is_ascii and not self.decoder.getstate()[0]

    def add(self, chunk: bytes) -> None:
        """Check the next bytes."""
        if self.is_utf8:
            try:
                is_ascii = self.decoder.decode(chunk).isascii()
                self.is_ascii = self.is_ascii and is_ascii
            except UnicodeDecodeError:
                self.is_utf8 = False


def decode(
    decoding: Decoding, decoder: codecs.IncrementalDecoder, chunk: bytes, final: bool, offset: int, name: str
) -> str:
    """Decode `chunk`, which starts at byte `offset`; the decoder holds bytes of a character that began before.

    Raises:
        DataError: a byte is not valid in the encoding, or its byte order mark is missing.
    """
    held, _ = decoder.getstate()
    try:
        return decoding.decode(decoder, chunk, final)
    except UnicodeError as error:
        is_unordered = decoding.encoding in ("utf-16", "utf-32") and not (held + chunk).startswith(
            tuple(BYTE_ORDER_MARKS)
        )
        if (offset == len(held) and is_unordered) or not isinstance(error, UnicodeDecodeError):
            raise DataError(
                f"{name} has no byte order mark of {decoding.encoding.upper()}",
                f"name the byte order with --set data.encoding={decoding.encoding}-le or {decoding.encoding}-be",
            ) from error
        place = offset - len(held) + error.start
        message = f"{name} is not {decoding.encoding.upper()} at byte {place:,}"
        if decoding.encoding != "utf-8":
            raise DataError(message, "check data.encoding, or leave it out") from error
        sample = (held + chunk)[max(0, error.start - SAMPLE_BYTES // 2) :][:SAMPLE_BYTES]
        more, remedy = probable_type(sample, name)
        raise DataError(f"{message}, {more}", remedy) from error


def probable_type(sample: bytes, name: str) -> tuple[str, str]:
    """Return the probable type of a file that is not UTF-8, as a clause, and a remedy.

    The type is recognised by the bytes around the first one that cannot be decoded.
    """
    if is_damaged_utf8(sample):
        replace = "put U+FFFD in place of such bytes with --set data.encoding_errors=replace"
        return "and UTF-8 elsewhere", f"restore the file, or {replace}"
    kind = BY_ENDING.get(PurePath(name).suffix.lower()) or probable_encoding(sample)
    if kind is None:
        return "and in no encoding that is recognised", "if it is text, name its encoding with --set data.encoding=NAME"
    return f"and probably {kind.what}", not_text_error(name, kind).remedy
