"""Encodings and kinds of files, folders, separators of documents."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from inputs.attempt import Attempt

STORIES = [f"Once upon a time, the fox number {n} went to the river {n * 7 % 100}.\nIt saw water." for n in range(100)]
TEXT = "\n\n\n".join(STORIES)
FRENCH = "Le café était fermé à l’été. « Où êtes-vous ? » demanda-t-il.\n" * 50
NOTES = "".join(
    f"Sentence number {n} is from the owl of house {n * 7 % 113}, and said: hello {n * n}.\n" for n in range(200)
)
JAPANESE = "".join(f"これは文章{n}です。猫が{n * n}匹いる。\n" for n in range(200))
PREPARE = "--set data.tokenizer=byte --cache-dir cache"


def prepared(byte_count: int, documents: int = 1, left_out: int = 0) -> Callable[[Path], None]:
    """Whether so much was prepared, and so many files were left out."""

    def look(folder: Path) -> None:
        (report,) = sorted(folder.glob("cache/tokens/*/report.json"))
        found = json.loads(report.read_text(encoding="utf-8"))
        assert found["train"]["bytes"] + found["val"]["bytes"] == byte_count
        more = found["train"]["documents"] + found["val"]["documents"] - documents
        assert more in (0, 1)  # a document may be cut into two parts
        assert found["left_out"]["total"] == left_out

    return look


def refused(input: str, name: str, content: bytes, happens: str, says: str, remedy: str = "", size: int = 0) -> Attempt:
    """A file that is refused with what makes text of it; `remedy` is an option that the message names."""
    return Attempt(
        input,
        f"gptcli data prepare '{name}' {PREPARE}",
        happens,
        code=3,
        says=(says,),
        says_not=() if "encoding_errors" in remedy else ("encoding_errors",),
        files={name: content},
        then=f"gptcli data prepare '{name}' {PREPARE} {remedy}" if remedy else "",
        left=prepared(size) if remedy else lambda folder: None,
    )


def read(input: str, name: str, content: bytes, happens: str, says: str = "", options: str = "") -> Attempt:
    """A file that is read as TEXT."""
    return Attempt(
        input,
        f"gptcli data prepare {name} {PREPARE} {options}",
        happens,
        says=(says,) if says else (),
        files={name: content},
        left=prepared(len(TEXT.encode())),
    )


def separated(
    input: str, text: str, options: str, happens: str, documents: int, says: str = "", then: str = ""
) -> Attempt:
    """A text with separators."""
    return Attempt(
        input,
        f"gptcli data prepare a.txt {PREPARE} {options}",
        happens,
        says=(says,) if says else (),
        says_not=() if says else ("warning: .*separator",),
        files={"a.txt": text},
        then=f"gptcli data prepare a.txt --set data.tokenizer=byte --cache-dir other {then}" if then else "",
        left=prepared(len("".join(re.split("(?:\r?\n){3}", text)) if documents > 1 else text), documents),
    )


def archive(members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return out.getvalue()


FOLDER = {
    "c/a.txt": STORIES[0],
    "c/README": STORIES[1],
    "c/B.TXT.GZ": gzip.compress(STORIES[2].encode()),
    "c/package.json": '{"name": "x"}',
    "c/rows.csv": "text\ngood\nbad, row\n",
    "c/old.txt": FRENCH.encode("cp1252"),
    "c/picture.jpg": b"\xff\xd8\xff\xe0",
    "c/.git/config.txt": "hidden",
    "elsewhere/d.txt": STORIES[3],
}
LINKS = {"c/s.txt": "s.txt", "c/linked": "../elsewhere", "c/circle": "."}
READ_OF_FOLDER = sum(len(text.encode()) for text in STORIES[:4])

ATTEMPTS = [
    refused(
        "UTF-16 without a byte order mark",
        "a.txt",
        TEXT.encode("utf-16-le"),
        "refused as UTF-16LE, with the option and the command that read it",
        r"iconv -f UTF-16LE -t UTF-8 a\.txt",
        "--set data.encoding=utf-16-le",
        len(TEXT),
    ),
    refused(
        "UTF-32 with a byte order mark",
        "a.txt",
        TEXT.encode("utf-32"),
        "refused as UTF-32, with the option and the command that read it",
        r"iconv -f UTF-32 -t UTF-8 a\.txt",
        "--set data.encoding=utf-32",
        len(TEXT),
    ),
    refused(
        "a French text in CP1252",
        "my text.txt",
        FRENCH.encode("cp1252"),
        "refused at the first wrong byte, with the encoding that it probably is in",
        r"not UTF-8 at byte 6, and probably text in CP1252 .*iconv -f CP1252 -t UTF-8 'my text\.txt'",
        "--set data.encoding=cp1252",
        len(FRENCH.encode()),
    ),
    refused(
        "an English text with one `café` in CP1252",
        "notes.txt",
        f"{NOTES}café".encode("cp1252"),
        "refused, with the encoding that it probably is in; one letter is not taken for a Cyrillic one",
        r"probably text in CP1252",
        "--set data.encoding=cp1252",
        len(f"{NOTES}café".encode()),
    ),
    refused(
        "a Japanese text in Shift-JIS",
        "notes.txt",
        JAPANESE.encode("cp932"),
        "refused, with the encoding that it probably is in",
        r"probably text in Shift-JIS",
        "--set data.encoding=cp932",
        len(JAPANESE.encode()),
    ),
    refused(
        "a PDF document",
        "my book.pdf",
        b"%PDF-1.7\n\xe2\xe3",
        "refused: `pdftotext`",
        "pdftotext 'my book.pdf' 'my book.txt'",
    ),
    refused(
        "a Word document",
        "a.docx",
        archive({"word/document.xml": b"<w/>"}),
        "refused: `pandoc`",
        "pandoc -t plain a.docx",
    ),
    refused(
        "a JPEG image called .txt", "a.txt", b"\xff\xd8\xff\xe0", "refused as a JPEG image", "a.txt is a JPEG image"
    ),
    refused("a 7z archive", "a.7z", b"7z\xbc\xaf\x27\x1c\0\4", "refused: `7z x`", r"7z x a\.7z"),
    refused(
        "a text with many NUL bytes",
        "a.txt",
        TEXT.encode() * 3 + b"\0" * 400,
        "refused with their number",
        "400 of its [0-9,]+ bytes are NUL",
    ),
    refused(
        "UTF-8 with a damaged byte",
        "a.txt",
        "é日本語\n".encode() * 500 + b"\xff",
        "refused at that byte; `replace` is advised here",
        "and UTF-8 elsewhere",
        "--set data.encoding_errors=replace",
        len("é日本語\n".encode()) * 500 + 3,
    ),
    refused(
        "`.xz` that was cut off", "a.txt.xz", lzma.compress(TEXT.encode())[:-40], "refused as damaged", "is damaged"
    ),
    Attempt(
        "CP1252 read with `encoding_errors=replace`",
        f"gptcli data prepare a.txt {PREPARE} --set data.encoding_errors=replace",
        "a warning with the number of characters that were replaced",
        says=(r"warning: [0-9,]+ of [0-9,]+ characters are U\+FFFD", r"replaced +[0-9,]+ characters"),
        files={"a.txt": FRENCH.encode("cp1252")},
    ),
    read("a text as `.xz`", "a.txt.xz", lzma.compress(TEXT.encode()), "read"),
    read("a text as `.bz2`", "a.txt.bz2", bz2.compress(TEXT.encode()), "read"),
    read("a gzip file called `.txt`", "a.txt", gzip.compress(TEXT.encode()), "read"),
    Attempt(
        "a `.zip` of texts, rows and a picture",
        f"gptcli data prepare a.zip {PREPARE}",
        "its files are read like those of a folder; one line lists what is left out",
        says=(r"left out of the corpus: 1 of other kinds \(1 \.jpg\)",),
        files={
            "a.zip": archive(
                {
                    "in/a.txt": STORIES[0].encode(),
                    "in/b.jsonl": json.dumps({"text": STORIES[1]}).encode(),
                    "c.jpg": b"\xff\xd8\xff",
                }
            )
        },
        left=prepared(len(STORIES[0]) + len(STORIES[1]), 2, 1),
    ),
    Attempt(
        "a folder with `package.json`, a broken CSV, a CP1252 text, a picture, `.git`, links in circles",
        f"gptcli data prepare c {PREPARE}",
        "all readable files are read, also in linked folders and without an ending; one line lists what is left out",
        says=("left out of the corpus: 5 that cannot be read as text .*, 1 of other kinds .*, 1 hidden",),
        files=FOLDER,
        links=LINKS,
        left=prepared(READ_OF_FOLDER, 4, 7),
    ),
    Attempt(
        "one of its files named on the command line",
        f"gptcli data prepare c c/old.txt {PREPARE}",
        "refused, since it was named",
        code=3,
        says=(r"c/old\.txt is not UTF-8",),
        files=FOLDER,
        links=LINKS,
    ),
    Attempt(
        "`--set data.include='*.txt' --set data.exclude=old.txt`",
        f"gptcli data prepare c {PREPARE} --set data.include='*.txt' --set data.exclude='[\"old.txt\", \"linked\"]'",
        "the files that the patterns choose",
        says=("excluded by data.exclude", "not matched by data.include"),
        files=FOLDER,
        links=LINKS | {"c/more.txt": "../elsewhere/d.txt"},
        left=prepared(len(STORIES[0]) + len(STORIES[3]), 2, 10),
    ),
    Attempt(
        "`--set data.exclude='*.log,*.csv'`, two patterns in one",
        f"gptcli data prepare c {PREPARE} --set data.exclude='*.log,*.csv'",
        "a warning that nothing is left out, with the list that was meant",
        says=(r"warning: data\.exclude='\*\.log,\*\.csv' leaves out no file", r"data\.exclude=\['\*\.log', 'old/'\]"),
        files={"c/a.txt": STORIES[0], "c/rows.csv": "text\ngood\n"},
        then=f"gptcli data prepare c {PREPARE.replace(' cache', ' other')} --set \"data.exclude=['*.log', '*.csv']\"",
        left=prepared(len(STORIES[0]) + len("good"), 2),
    ),
    Attempt(
        "a link to itself (`ln -s s.txt s.txt`)",
        "gptcli data prepare s.txt",
        "refused as a link to nothing, or to itself",
        code=3,
        says=(r"s\.txt is a link to nothing, or to itself",),
        links={"s.txt": "s.txt"},
    ),
    separated(
        r"`--set data.document_separator='\n\n\n'`",
        TEXT,
        r"--set data.document_separator='\n\n\n'",
        "the documents between three line ends",
        100,
    ),
    separated(
        "the same of a text with line ends of Windows",
        TEXT.replace("\n", "\r\n"),
        r"--set data.document_separator='\n\n\n'",
        "the same documents",
        100,
    ),
    separated(
        "a separator that never occurs",
        TEXT,
        "--set data.document_separator=@@@",
        "a warning",
        1,
        "warning: data.document_separator=@@@ never occurs",
    ),
    separated(
        "a text full of `<|endoftext|>` that nobody declared",
        "<|endoftext|>".join(STORIES),
        "",
        "a warning with the option that declares it",
        1,
        r"add --set data\.document_separator='<\|endoftext\|>'",
        "--set data.document_separator='<|endoftext|>'",
    ),
    separated(
        "a text with lines `---` that nobody declared",
        "\n---\n".join(STORIES),
        "",
        "a warning with the option that declares it",
        1,
        r"add --set data\.document_separator='\\n---\\n'",
        r"--set data.document_separator='\n---\n'",
    ),
]
