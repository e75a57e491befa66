"""Character encodings: those that a corpus may name, and the probable encoding of a text that is not UTF-8."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING

from gptcli.data.filetypes import UTF16, FileType, reencoding

if TYPE_CHECKING:
    from charset_normalizer import CharsetMatch

SAMPLE_BYTES = 1 << 15
"""Bytes around the first one that cannot be decoded, from which the probable encoding is recognised."""
LIKELY = {
    kind.encoding: kind
    for kind in (
        reencoding("cp1252", "CP1252", "text in CP1252 (Western European Windows, also Latin-1)"),
        reencoding("cp1251", "CP1251", "text in CP1251 (Cyrillic Windows)"),
        reencoding("cp1250", "CP1250", "text in CP1250 (Central European Windows)"),
        reencoding("gb18030", "GB18030", "text in GB18030 (simplified Chinese, also GBK)"),
        reencoding("big5", "BIG5", "text in Big5 (traditional Chinese)"),
        reencoding("cp932", "CP932", "text in Shift-JIS (Japanese)"),
        reencoding("euc_jp", "EUC-JP", "text in EUC-JP (Japanese)"),
        reencoding("cp949", "CP949", "text in CP949 (Korean, also EUC-KR)"),
        reencoding("koi8_r", "KOI8-R", "text in KOI8-R (Russian)"),
        reencoding("cp866", "CP866", "text in CP866 (Cyrillic DOS)"),
        reencoding("cp437", "CP437", "text in CP437 (DOS)"),
        reencoding("cp1253", "CP1253", "text in CP1253 (Greek)"),
        reencoding("cp1254", "CP1254", "text in CP1254 (Turkish)"),
        reencoding("cp1255", "CP1255", "text in CP1255 (Hebrew)"),
        reencoding("cp1256", "CP1256", "text in CP1256 (Arabic)"),
        *UTF16,
    )
}
"""The encodings that are suggested, by Python's names; of several that decode a sample alike, the first is
suggested."""
LATIN = ("cp1252", "cp1250", "cp1254", "cp437")
"""The encodings of LIKELY for languages in Latin letters, most of which are ASCII."""
LONG_RUN = 3
"""Number of adjacent bytes above 0x7F that make a word or a part of one, in other letters than Latin ones."""
MIN_HIRAGANA_SHARE = 0.2
"""Every Japanese text has more hiragana than this among its characters outside ASCII, and no other text has any."""


def text_encoding(name: str) -> str:
    """Return Python's name of an encoding of text that can be decoded in pieces.

    Raises:
        ValueError: there is none of that name.
    """
    try:
        found = codecs.lookup(name)
        "".encode(found.name)
    except (LookupError, ValueError) as error:
        raise ValueError(f"{name!r} is not a text encoding of Python; use one such as utf-8, cp1252 or gbk") from error
    if found.incrementaldecoder is None or found.name in ("idna", "punycode", "unicode_escape", "raw_unicode_escape"):
        raise ValueError(f"{name!r} is not an encoding of text files; use one such as utf-8, cp1252 or gbk")
    return found.name


def probable_encoding(sample: bytes) -> FileType | None:
    """Return the encoding that a text which is not UTF-8 probably has, or None; it is a guess."""
    from charset_normalizer import from_bytes

    for encoding in ("cp932", "euc_jp"):
        if is_japanese(sample, encoding):
            return LIKELY[encoding]
    matches = from_bytes(sample, cp_isolation=list(LIKELY), enable_fallback=False)
    possible = {*LATIN, *(kind.encoding for kind in UTF16)} if is_latin(sample) else LIKELY.keys()
    found = [match for match in matches if python_name(match) in possible]
    if not found:
        return None
    order = list(LIKELY)
    best = max(found, key=lambda match: (round(match.coherence - match.chaos, 2), -order.index(python_name(match))))
    text = str(best)
    alike = (kind for kind in LIKELY.values() if (begins := decoded(sample, kind.encoding)) and text.startswith(begins))
    return next(alike, None)


def is_latin(sample: bytes) -> bool:
    r"""Return whether most bytes above 0x7F are alone or in pairs among ASCII, as accented letters and quotes do.

    If they are few, a detector cannot distinguish "caf\xe9" from a word that ends in Cyrillic.
    """
    runs = [len(run) for run in re.findall(rb"[\x80-\xff]+", sample)]
    return 2 * sum(run for run in runs if run >= LONG_RUN) < sum(runs)


def is_japanese(sample: bytes, encoding: str) -> bool:
    """Return whether `sample` is Japanese in `encoding`, by its hiragana: short sentences also resemble Korean or
    Chinese.
    """
    text = decoded(sample, encoding) or ""
    others = sum(character > "\x7f" for character in text)
    return sum("\u3041" <= character <= "\u309f" for character in text) > MIN_HIRAGANA_SHARE * others


def python_name(match: CharsetMatch) -> str:
    """Return the name of an encoding in LIKELY: charset_normalizer writes all names with underscores."""
    return match.encoding if match.encoding in LIKELY else match.encoding.replace("_", "-")


def decoded(sample: bytes, encoding: str) -> str | None:
    """Return `sample` as text, without a character that its end may have cut; None if it has errors."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return None


def is_damaged_utf8(sample: bytes) -> bool:
    """Return whether `sample` is UTF-8 except for few bytes, by the characters of several bytes that it holds."""
    text = sample.decode(errors="replace")
    errors = text.count("\ufffd") - sample.count("\ufffd".encode())
    others = sum(character > "\x7f" for character in text) - text.count("\ufffd")
    return 10 * errors < others
