"""From one file to its text: UTF-8 decoding.

Everything is read in pieces of bounded size. Knows nothing of rows, documents, splits or tokens; every error names the
file and the place in it.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from gptcli.data.compression import read_bytes
from gptcli.errors import DataError


def read_text(path: Path, name: str, errors: str, start: int = 0, stop: int | None = None) -> Iterator[str]:
    """The text of a UTF-8 file in chunks, without its byte order mark; line ends stay as they are.

    `errors` is `strict` or `replace`. With `stop` only bytes start..stop-1, which begin and end with a character.

    Raises:
        DataError: a byte is not UTF-8; the message says where it is (counted from 0, after decompression).
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    offset, is_start = start, start == 0
    for chunk in read_bytes(path, name, start, stop):
        text = decode(decoder, chunk, False, offset, name)
        offset += len(chunk)
        if text:
            yield text.removeprefix("\ufeff") if is_start else text
            is_start = False
    if text := decode(decoder, b"", True, offset, name):
        yield text


def decode(decoder: codecs.IncrementalDecoder, chunk: bytes, final: bool, offset: int, name: str) -> str:
    """Decode `chunk`, which starts at byte `offset`; bytes of a character begun before are held by the decoder."""
    held, _ = decoder.getstate()
    try:
        return decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        place = offset - len(held) + error.start
        is_utf16 = place == 0 and chunk[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        remedy = (
            "it looks like UTF-16: convert it (iconv -f UTF-16 -t UTF-8)"
            if is_utf16
            else "convert the file, or put U+FFFD there with --set data.encoding_errors=replace"
        )
        raise DataError(f"{name} is not UTF-8 at byte {place:,}", remedy) from error
