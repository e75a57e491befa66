"""No reader loses a character silently: whatever the text fields of a file hold is in the documents that are read, or
is counted as left out."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path

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
@given(texts=TEXTS, end=st.sampled_from(["\n", "\r\n"]))
def test_rows_of_csv(texts: list[str], end: str) -> None:
    texts = [*texts, *PAD]
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([["id", "text"], *([1, text] for text in texts)])
    assert_nothing_is_lost("a.csv", out.getvalue().encode(), texts, DataConfig())
