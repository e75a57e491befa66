"""No reader loses a character silently: whatever the text fields of a file hold is in the documents that are read, or
is counted as left out."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_files import write
from gptcli.data.config import DataConfig
from gptcli.data.corpus import read_pieces
from gptcli.data.filetypes import HEAD_BYTES, file_type
from gptcli.data.formats import MAX_NUL_SHARE
from gptcli.data.scan import scan_corpus
from gptcli.data.sources import find_files
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
    """The documents of a file called `name` are `texts` exactly; a scan of it keeps or counts every byte of them."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), name, content)
        if file_type(content[:HEAD_BYTES]) is not None or content.count(0) > max(1, MAX_NUL_SHARE * len(content)):
            with pytest.raises(DataError, match="is no text"):
                documents_in(path, config)
            return
        assert documents_in(path, config) == texts
        scan = scan_corpus([str(path)], config, Path(folder, "cache"))
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
    """A dialect of CSV, as Python's writer is told of it."""

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
