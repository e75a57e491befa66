"""Recognition of files that are not text by their first bytes, and the commands that convert them to text.

`gptcli` reads text in a known encoding. Anything else would be trained on as noise if it were decoded as text, so it is
refused before it is decoded. No file is opened here: the functions get the beginning of a file's content.
"""

from __future__ import annotations

import codecs
from pathlib import PurePath
from typing import NamedTuple

from gptcli.console import shell_word
from gptcli.errors import DataError

HEAD_BYTES = 1 << 13
"""Bytes at the beginning of a file by which its type is recognised."""
MAX_CONTROL_SHARE = 0.01
MIN_CONTROLS = 4
"""A file with more control characters than both limits, in its first HEAD_BYTES bytes, is not text."""
CONTROLS = bytes(byte for byte in (*range(32), 127) if byte not in b"\b\t\n\v\f\r\x1b")
"""ASCII control characters that no text needs. Backspace and escape are not among them, since terminals record them."""


PUNCTUATION = "、。，"
MIN_PLAIN_SHARE = 0.01
"""Least share of ASCII or CJK punctuation in a text; text decoded in the wrong byte order has less."""


class FileType(NamedTuple):
    """The type of a file, in words, and the shell command that converts it to text.

    In the command `{file}` stands for the file, `{text}` for a new text file and `{folder}` for a new folder.
    `encoding` is Python's name of the encoding if the file is text, but not in the expected encoding.
    """

    what: str
    command: str = ""
    encoding: str = ""


def not_text_error(name: str, kind: FileType, is_packed: bool = False) -> DataError:
    """Return the error for a file that is not text in the expected encoding; its remedy is a command that can be typed.

    Args:
        name: the file that the error names.
        kind: the type of the file.
        is_packed: whether `kind` is the type of the file's content, after it is decompressed or extracted from an
            archive.
    """
    if kind.command == STRIP:
        kind = BY_ENDING.get(PurePath(name).suffix.lower(), kind)
    message = f"{name} is {kind.what}"
    if not kind.command:
        return DataError(message, "name a text file instead")
    unpack = "unpack it, and " * is_packed + "save it as a file, and " * (name == "-")
    key = f"add --set data.encoding={kind.encoding}, or " * bool(kind.encoding)
    return DataError(message, f"{key}{unpack}convert it to text: {conversion(name, kind, is_packed)}")


def conversion(name: str, kind: FileType, is_packed: bool = False) -> str:
    """Return the shell command that converts a file to text."""
    path = PurePath("FILE" if name == "-" else name)
    if is_packed:
        path = path.with_suffix("") if path.suffix in (".gz", ".bz2", ".xz", ".lzma", ".zst") else PurePath(path.name)
    stem = str(path.with_suffix("")) if path.suffix else f"{path}-text"
    text = f"{stem}-text.txt" if path.suffix.lower() == ".txt" else f"{stem}.txt"
    return kind.command.format(file=shell_word(str(path)), text=shell_word(text), folder=shell_word(stem))


def reencoding(encoding: str, iconv_name: str, what: str = "") -> FileType:
    """Return the file type of text in another encoding than UTF-8."""
    return FileType(what or f"text in {iconv_name}", f"iconv -f {iconv_name} -t UTF-8 {{file}} > {{text}}", encoding)


UNPACK = "mkdir {folder} && bsdtar -xf {file} -C {folder}"
SPEECH = "whisper {file} --output_format txt"
STRIP = r"tr -d '\000-\007\016-\032\034-\037\177' < {file} > {text}"
OCR = "tesseract {file} stdout > {text}"
OFFICE = "libreoffice --headless --convert-to txt {file}"

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: reencoding("utf-32", "UTF-32"),
    codecs.BOM_UTF32_BE: reencoding("utf-32", "UTF-32"),
    codecs.BOM_UTF16_LE: reencoding("utf-16", "UTF-16"),
    codecs.BOM_UTF16_BE: reencoding("utf-16", "UTF-16"),
}
"""Byte order marks. UTF-32 comes first: its little-endian mark begins with that of UTF-16."""
UTF16 = (reencoding("utf-16-le", "UTF-16LE"), reencoding("utf-16-be", "UTF-16BE"))
UTF32 = (reencoding("utf-32-le", "UTF-32LE"), reencoding("utf-32-be", "UTF-32BE"))

GZIP = FileType("compressed by gzip", "gunzip -c {file} > {text}")
XZ = FileType("compressed by xz", "unxz -c {file} > {text}")
BZIP2 = FileType("compressed by bzip2", "bunzip2 -c {file} > {text}")
ZSTD = FileType("compressed by zstd", "zstd -dc {file} > {text}")
ZIP = FileType("a zip archive", "unzip {file} -d {folder}")

SIGNATURES: dict[bytes, FileType] = {
    b"%PDF-": FileType("a PDF document", "pdftotext {file} {text}"),
    b"{\\rtf1": FileType("an RTF document", OFFICE),
    b"%!PS-Adobe-": FileType("a PostScript document", "ps2ascii {file} {text}"),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": FileType("an old Microsoft Office document", OFFICE),
    b"PK\x03\x04": ZIP,
    b"PK\x05\x06": ZIP,
    b"\x1f\x8b": GZIP,
    b"\xfd7zXZ\0": XZ,
    b"]\0\0": XZ,
    b"BZh": BZIP2,
    b"\x28\xb5\x2f\xfd": ZSTD,
    b"\x04\x22\x4d\x18": FileType("compressed by lz4", "lz4 -dc {file} > {text}"),
    b"\x1f\x9d": FileType("compressed by compress", "uncompress -c {file} > {text}"),
    b"LZIP\x01": FileType("compressed by lzip", "lzip -dc {file} > {text}"),
    b"\xff\x06\0\0sNaPpY": FileType("compressed by snappy", "snzip -dc {file} > {text}"),
    b"7z\xbc\xaf\x27\x1c": FileType("a 7z archive", "7z x {file} -o{folder}"),
    b"Rar!\x1a\x07": FileType("a RAR archive", "mkdir {folder} && unrar x {file} {folder}/"),
    b"!<arch>\n": FileType("an ar archive", UNPACK),
    b"MSCF\0\0\0\0": FileType("a cabinet archive", UNPACK),
    b"AT&TFORM": FileType("a DjVu document", "djvutxt {file} {text}"),
    b"\xff\xd8\xff": FileType("a JPEG image", OCR),
    b"\x89PNG\r\n\x1a\n": FileType("a PNG image", OCR),
    b"GIF87a": FileType("a GIF image", OCR),
    b"GIF89a": FileType("a GIF image", OCR),
    b"II*\0": FileType("a TIFF image", OCR),
    b"MM\0*": FileType("a TIFF image", OCR),
    b"\0\0\1\0": FileType("an icon"),
    b"8BPS\0": FileType("a Photoshop image"),
    b"ID3\2": FileType("an MP3 recording", SPEECH),
    b"ID3\3": FileType("an MP3 recording", SPEECH),
    b"ID3\4": FileType("an MP3 recording", SPEECH),
    b"\xff\xfb": FileType("an MP3 recording", SPEECH),
    b"\xff\xf3": FileType("an MP3 recording", SPEECH),
    b"OggS\0": FileType("an Ogg recording", SPEECH),
    b"fLaC": FileType("a FLAC recording", SPEECH),
    b"\x1aE\xdf\xa3": FileType("a Matroska video", SPEECH),
    b"\x7fELF": FileType("an ELF program"),
    b"\xcf\xfa\xed\xfe": FileType("a Mach-O program"),
    b"\xce\xfa\xed\xfe": FileType("a Mach-O program"),
    b"\xca\xfe\xba\xbe": FileType("a Java class or Mach-O program"),
    b"MZ\x90\0": FileType("a Windows program"),
    b"\0asm": FileType("a WebAssembly program"),
    b"SQLite format 3\0": FileType("an SQLite database", "sqlite3 -csv -header {file} 'SELECT ...' > {text}"),
    b"\x93NUMPY": FileType("a NumPy array"),
    b"\x89HDF\r\n\x1a\n": FileType("an HDF5 file"),
    b"GGUF": FileType("a GGUF model"),
    b"PAR1": FileType("a Parquet file", "mv {file} {file}.parquet"),
    b"ARROW1\0\0": FileType("an Arrow file", "mv {file} {file}.arrow"),
    b"Obj\x01": FileType("an Avro file"),
    b"wOFF": FileType("a font"),
    b"wOF2": FileType("a font"),
    b"OTTO\0": FileType("a font"),
    b"\0\1\0\0\0": FileType("a font"),
    b"version https://git-lfs.github.com/spec/": FileType("a Git LFS pointer", "git lfs pull --include {file}"),
} | {b"\x80" + bytes([version]): FileType("a Python pickle") for version in range(2, 6)}

BY_ENDING = {".br": FileType("compressed by brotli", "brotli -dc {file} > {text}")}
"""File types without a signature, by the endings of files that turn out not to be text."""

UNMISTAKABLE = (b"%PDF-", b"{\\rtf1", b"%!PS-Adobe-", b"version https://git-lfs.github.com/spec/")
"""Printable signatures with which no text begins. A text may begin with any other, but then has no NUL byte."""

NESTED_SIGNATURES: tuple[tuple[bytes, int, bytes, FileType], ...] = (
    (b"", 257, b"ustar", FileType("a tar archive", "mkdir {folder} && tar -xf {file} -C {folder}")),
    (b"", 60, b"BOOKMOBI", FileType("a Mobipocket book", "ebook-convert {file} {text}")),
    (b"\0\0\0", 4, b"ftyp", FileType("an MP4 or HEIC file", SPEECH)),
    (b"RIFF", 8, b"WAVE", FileType("a WAV recording", SPEECH)),
    (b"RIFF", 8, b"WEBP", FileType("a WebP image", OCR)),
    (b"RIFF", 8, b"AVI ", FileType("an AVI video", SPEECH)),
    (b"BM", 6, b"\0\0\0\0", FileType("a BMP image", OCR)),
    (b"", 5, b'\0\0\0{"', FileType("a safetensors file")),
)
"""(prefix, offset, bytes there, file type): types that two signatures decide together, in a file that has NUL bytes."""


def file_type(head: bytes, encoding: str = "utf-8") -> FileType | None:
    """Return the type of a file that begins with `head`; None if it is text in `encoding`.

    Args:
        head: its first HEAD_BYTES bytes, or all if it has fewer.
        encoding: the expected encoding, by Python's name.
    """
    wide = is_wide(encoding)
    found = None if wide else next((kind for mark, kind in BYTE_ORDER_MARKS.items() if head.startswith(mark)), None)
    found = found or signature(head)
    if found is None and not wide:
        found = (without_mark(head) if head.count(0) > 1 else None) or control_characters(head)
    return found


def is_wide(encoding: str) -> bool:
    """Return whether an encoding writes every character in two bytes or more, so that NUL bytes are part of text."""
    return encoding.startswith(("utf-16", "utf-32"))


def signature(head: bytes) -> FileType | None:
    """Return the file type whose signature `head` begins with."""
    has_nul = 0 in head
    for length in LENGTHS:
        mark = head[:length]
        kind = SIGNATURES.get(mark)
        is_certain = has_nul or mark in UNMISTAKABLE or not (mark.isascii() and mark.decode().isprintable())
        if kind is BZIP2:
            is_certain = is_bzip2(head)
        if kind is not None and is_certain:
            return kind
    for prefix, offset, mark, kind in NESTED_SIGNATURES if has_nul else ():
        if head.startswith(mark, offset) and head.startswith(prefix):
            return kind
    return None


LENGTHS = sorted({len(mark) for mark in SIGNATURES}, reverse=True)


def is_bzip2(head: bytes) -> bool:
    """Return whether a file that begins with "BZh", as a text may too, is compressed by bzip2: a block follows, or the
    end.
    """
    return head[3:4].isdigit() and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90")


def without_mark(head: bytes) -> FileType | None:
    """Return UTF-16 or UTF-32 without a byte order mark, if a file that has NUL bytes is text in one of them."""
    if is_text(head, "utf-8") and len(head) - len(head.translate(None, CONTROLS)) < len(head) // 10:
        return None
    for kinds in (UTF32, UTF16):  # nothing but UTF-32 can be decoded as such, and it can be decoded as UTF-16 too
        best = max(kinds, key=lambda kind: plain_share(head, kind.encoding))
        if plain_share(head, best.encoding) >= MIN_PLAIN_SHARE:
            return best
    return None


def plain_share(content: bytes, encoding: str) -> float:
    """Return the share of printable ASCII, line ends and common punctuation in `content`; 0 if it is not text in
    `encoding`.
    """
    if not is_text(content, encoding):
        return 0.0
    text = content.decode(encoding, errors="ignore")
    ascii_only = text.encode("ascii", errors="ignore")
    plain = ascii_only.translate(None, CONTROLS)
    if len(ascii_only) - len(plain) > MAX_CONTROL_SHARE * len(text):
        return 0.0
    return (len(plain) + sum(map(text.count, PUNCTUATION))) / max(1, len(text))


def is_text(content: bytes, encoding: str) -> bool:
    """Return whether `content`, which may end within a character, has no errors in `encoding`."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(content)
    except UnicodeDecodeError:
        return False
    return True


def control_characters(head: bytes) -> FileType | None:
    """Return the type of a file that has more control characters than a text has, or None."""
    count = len(head) - len(head.translate(None, CONTROLS))
    if count < MIN_CONTROLS or count <= MAX_CONTROL_SHARE * len(head):
        return None
    return FileType(f"not text: {count:,} of its first {len(head):,} bytes are control characters", STRIP)
