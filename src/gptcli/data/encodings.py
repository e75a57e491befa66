"""Character encodings: which ones a corpus may name, and which one a text that is not UTF-8 is probably in."""

from __future__ import annotations

import codecs
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
"""The encodings that are suggested, by Python's names; of several that decode a sample alike the first is."""


def text_encoding(name: str) -> str:
    """Python's name of an encoding of text that can be decoded in pieces.

    Raises:
        ValueError: there is none of that name.
    """
    try:
        found = codecs.lookup(name)
        "".encode(found.name)
    except (LookupError, ValueError) as error:
        raise ValueError(f"{name!r} is no encoding of text in Python; name one such as utf-8, cp1252 or gbk") from error
    if found.incrementaldecoder is None or found.name in ("idna", "punycode", "unicode_escape", "raw_unicode_escape"):
        raise ValueError(f"{name!r} is no encoding of text files; name one such as utf-8, cp1252 or gbk")
    return found.name


def probable_encoding(sample: bytes) -> FileType | None:
    """The encoding that a text which is not UTF-8 is probably in, where one is probable; it is a guess."""
    from charset_normalizer import from_bytes

    found = from_bytes(sample, cp_isolation=list(LIKELY), enable_fallback=False)
    if not found:
        return None
    order = list(LIKELY)
    best = max(found, key=lambda match: (round(match.coherence - match.chaos, 2), -order.index(python_name(match))))
    text = str(best)
    alike = (kind for kind in LIKELY.values() if (begins := decoded(sample, kind.encoding)) and text.startswith(begins))
    return next(alike, None)


def python_name(match: CharsetMatch) -> str:
    """The name of an encoding in LIKELY: charset_normalizer writes all with underscores."""
    return match.encoding if match.encoding in LIKELY else match.encoding.replace("_", "-")


def decoded(sample: bytes, encoding: str) -> str | None:
    """`sample` as text, without the character that its end may have cut; None where it has errors."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return None


def is_damaged_utf8(sample: bytes) -> bool:
    """Whether `sample` is UTF-8 but for few bytes, going by the characters of several bytes that it holds."""
    text = sample.decode(errors="replace")
    errors = text.count("\ufffd") - sample.count("\ufffd".encode())
    others = sum(character > "\x7f" for character in text) - text.count("\ufffd")
    return 10 * errors < others
