"""No reader loses a character silently: all the text of a file is in its documents, or the file is refused."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_files import COMPRESSIONS, compress, write
from gptcli.data import compression as compression_module
from gptcli.data.config import DataConfig
from gptcli.data.corpus import read_pieces
from gptcli.data.decoding import MAX_NUL_SHARE, Decoding, read_text
from gptcli.data.filetypes import HEAD_BYTES, file_type
from gptcli.data.scan import scan_texts
from gptcli.data.sections import cut_file
from gptcli.data.sources import find_files
from gptcli.data.workspace import Workspace
from gptcli.errors import DataError

quick = settings(
    max_examples=30,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
"""The same few examples every time."""
CHARACTERS = st.one_of(
    st.sampled_from(list("\t\n\r \",;|'\\{}[]:ab\x00\x0b\x1c\x85\u2028\ufeff")),
    st.characters(codec="utf-8"),
)
TEXTS = st.lists(st.text(CHARACTERS, max_size=12), min_size=1, max_size=8)
PAD = ["one text, so that there is always something to train on", "and another to validate on"]


def assert_nothing_is_lost(name: str, content: bytes, texts: list[str], config: DataConfig) -> None:
    """Check that the documents of a file called `name` are exactly `texts`, and that a scan keeps or counts all their
    bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), name, content)
        if file_type(content[:HEAD_BYTES]) is not None or content.count(0) > max(1, MAX_NUL_SHARE * len(content)):
            with pytest.raises(DataError, match="is not text"):
                documents_in(path, config)
            return
        assert documents_in(path, config) == texts
        scan = scan_texts([str(path)], Workspace(config, Path(folder, "cache")))
        kept = {text for text in texts if text and not text.isspace()}
        assert scan.train.bytes + scan.val.bytes == sum(len(text.encode()) for text in kept)
        blank = [text for text in texts if not text or text.isspace()]
        assert scan.blank == len(blank) and scan.duplicates == len(texts) - len(blank) - len(kept)


def documents_in(path: Path, config: DataConfig) -> list[str]:
    (file,) = find_files([str(path)], config, path.parent / "cache").files
    documents, parts = [], []
    for piece in read_pieces(file, config):
        parts.append(piece.text)
        if piece.is_last:
            documents.append("".join(parts))
            parts = []
    assert not parts
    return documents


@quick
@given(texts=TEXTS, ascii_only=st.booleans(), end=st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_rows_of_json_lines(texts: list[str], ascii_only: bool, end: str) -> None:
    texts = [*texts, *PAD]
    rows = [json.dumps({"id": 1, "text": text}, ensure_ascii=ascii_only) for text in texts]
    assert_nothing_is_lost("a.jsonl", end.join(rows).encode(), texts, DataConfig())


@quick
@given(
    texts=TEXTS,
    layout=st.sampled_from(["array", "objects", "arrays"]),
    indent=st.sampled_from([None, 0, 2]),
    chunk=st.integers(1, 40),
)
def test_rows_of_json_in_any_layout(texts: list[str], layout: str, indent: int | None, chunk: int) -> None:
    texts = [*texts, *PAD]
    rows = [{"id": 1.5, "text": text, "more": {"text": [None]}} for text in texts]
    values = {"array": [rows], "objects": rows, "arrays": [rows[:1], rows[1:], []]}[layout]
    content = "\r\n".join(json.dumps(value, ensure_ascii=False, indent=indent) for value in values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gptcli.data.compression.CHUNK_BYTES", chunk)
        assert_nothing_is_lost("a.json", content.encode(), texts, DataConfig(format="json"))


class Written(NamedTuple):
    """A dialect of CSV, with the options of Python's writer."""

    delimiter: str
    quote: str
    escape: str
    quotes_all: bool
    end: str
    columns: int
    has_header: bool

    def content(self, texts: list[str]) -> bytes:
        out = io.StringIO(newline="")
        writer = csv.writer(
            out,
            lineterminator=self.end,
            delimiter=self.delimiter,
            quotechar=self.quote or None,
            doublequote=not self.escape,
            escapechar=self.escape or None,
            quoting=csv.QUOTE_NONE if not self.quote else csv.QUOTE_ALL if self.quotes_all else csv.QUOTE_MINIMAL,
        )
        rows = [{"id": number, "text": text, "more": "x y"} for number, text in enumerate(texts)]
        names = [["text"], ["id", "text"], ["id", "text", "more"]][self.columns - 1]
        writer.writerows([*([names] if self.has_header else []), *([row[name] for name in names] for row in rows)])
        return b"\xef\xbb\xbf" + out.getvalue().encode()

    def config(self) -> DataConfig:
        return DataConfig(
            csv_delimiter=self.delimiter,
            csv_quote=self.quote,
            csv_escape=self.escape,
            csv_header=self.has_header,
            text_field="text" if self.has_header or self.columns == 1 else "2",
        )


DIALECTS = st.builds(
    Written,
    st.sampled_from([",", ";", "\t", "|", " "]),
    st.sampled_from(['"', "'", ""]),
    st.sampled_from(["", "\\", "^"]),
    st.booleans(),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.integers(1, 3),
    st.booleans(),
).filter(lambda dialect: dialect.quote or dialect.escape)


@quick
@given(texts=TEXTS, dialect=DIALECTS)
def test_rows_of_csv_in_every_dialect(texts: list[str], dialect: Written) -> None:
    texts = [*texts, *PAD]
    if not (dialect.quote and dialect.quotes_all):  # otherwise Python's writer before 3.13 leaves other line ends alone
        texts = [re.sub("\r\n|\r|\n", dialect.end, text) for text in texts]
    if not dialect.quote:
        texts = [text or "empty" for text in texts]
    name = "a.tsv" if dialect.delimiter == "\t" else "a.csv"
    assert_nothing_is_lost(name, dialect.content(texts), texts, dialect.config())


@quick
@given(texts=TEXTS, quotes_all=st.booleans())
def test_a_line_of_csv_without_a_delimiter_is_one_value(texts: list[str], quotes_all: bool) -> None:
    texts = [re.sub('[\r\n"]', "_", text) or "x" for text in texts] + PAD
    lines = [f'"{text}"' if quotes_all else text for text in ["text", *texts]]
    content = "".join(f"{line}\n" for line in lines).encode()
    assert_nothing_is_lost("a.csv", content, texts, DataConfig(csv_delimiter=""))


WIDE = ("utf-16", "utf-16-le", "utf-16-be", "utf-32")
ENCODINGS = ("utf-8", "utf-8-sig", *WIDE, "cp1252", "gb18030", "shift_jis", "koi8-r")
SEPARATORS = {None: None, r"\n\n": "\r?\n\r?\n", "ab": "ab", r"\t": "\t"}


def encodable(text: str, encoding: str) -> str:
    """Return the characters of a text that an encoding has, and that it restores."""
    kept = text.encode(encoding, errors="ignore").decode(encoding)
    return kept.removeprefix("\ufeff")


@quick
@given(
    text=st.text(CHARACTERS, max_size=60),
    encoding=st.sampled_from(ENCODINGS),
    compression=st.sampled_from((*COMPRESSIONS, ".zip")),
    separator=st.sampled_from(list(SEPARATORS)),
    chunk=st.sampled_from((1, 3, 1 << 18)),
)
def test_text_in_every_encoding_and_compression(
    text: str, encoding: str, compression: str, separator: str | None, chunk: int
) -> None:
    """What is read is the text, in the documents that cutting the whole text gives."""
    text = encodable(text, encoding)
    content = text.encode(encoding)
    config = DataConfig(encoding=encoding, document_separator=separator)
    expected = [text] if separator is None else re.split(SEPARATORS[separator], text)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression_module, "CHUNK_BYTES", chunk)
        path = Path(folder, "a.txt" + compression)
        if compression == ".zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("a.txt", content)
        else:
            path.write_bytes(compress(content, compression))
        try:
            found = documents_in(path, config)
        except DataError as error:
            # A refusal is no loss: control characters, or a text in two encodings at once. All else must be read.
            assert re.search("is not text|would misread it|is (text|compressed|a |an )", str(error)), error
            assert refused(content, encoding), error
        else:
            assert found == expected


def refused(content: bytes, encoding: str) -> bool:
    """Return whether bytes must be refused in an encoding, by Python's own decoder."""
    controls = sum((byte < 32 and byte not in b"\b\t\n\v\f\r\x1b") or byte == 127 for byte in content)
    is_utf8 = encoding not in ("utf-8", "utf-8-sig") and "\ufffd" not in content.decode(errors="replace")
    is_odd = controls > 1 or (is_utf8 and not content.isascii())
    return (encoding not in WIDE and is_odd) or file_type(content, encoding) is not None


@quick
@given(
    text=st.text(CHARACTERS, max_size=60),
    bad=st.lists(st.tuples(st.integers(0, 200), st.sampled_from([255, 128, 192]))),
)
def test_replaced_characters_are_counted(text: str, bad: list[tuple[int, int]]) -> None:
    content = bytearray(text.encode())
    for place, byte in bad:
        content.insert(min(place, len(content)), byte)
    decoding = Decoding("replace")
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), "a.txt", bytes(content))
        if file_type(bytes(content)) is None and content.count(0) <= 1:
            found = "".join(read_text(path, "a", decoding))
            assert found == content.decode(errors="replace").removeprefix("\ufeff")
            assert decoding.replaced == found.count("\ufffd") - bytes(content).count("\ufffd".encode())


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "b.json"])
@pytest.mark.parametrize("section_bytes", [1, 50, 997])
def test_the_number_of_parts_changes_nothing(tmp_path: Path, name: str, section_bytes: int) -> None:
    """Also where lines end within values."""
    texts = [f'row {number}\nof several "lines",\r\n\n{number}' * (number % 4) for number in range(100)]
    rows = [{"text": text} for text in texts]
    content = {
        "a.csv": Written(",", '"', "", False, "\n", 2, True).content(texts),
        "a.tsv": Written("\t", '"', "", True, "\r\n", 3, True).content(texts),
        "a.jsonl": "\r\n".join(json.dumps(row) for row in rows).encode(),
        "a.json": json.dumps(rows, indent=1).encode(),
        "b.json": "\n".join(json.dumps(row) for row in rows).encode(),
    }[name]
    path, config = write(tmp_path, name, content), DataConfig()
    ((file,), _) = find_files([str(path)], config, tmp_path / "cache")
    sections = cut_file(0, file, len(content), config, section_bytes)
    assert len(sections) > 5 or name in ("a.csv", "a.tsv", "a.json")
    pieces = [piece for section in sections for piece in read_pieces(file, config, section.start, section.stop)]
    assert [piece.text for piece in pieces] == texts
