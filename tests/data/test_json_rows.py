"""Rows of JSON in every layout: JSON is read, and errors describe the text that is not JSON."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_files import write
from gptcli.data.config import DataConfig
from gptcli.data.decoding import Decoding
from gptcli.data.file_formats import SourceFile
from gptcli.data.json_rows import json_values
from gptcli.data.recognize import file_format
from gptcli.data.rows import read_rows
from gptcli.errors import DataError

ROWS = [{"id": 1, "text": "a, [b] {c}"}, {"id": 2, "text": 'd"\n\\', "more": {"text": [1, {}]}}]
TEXTS = [row["text"] for row in ROWS]


def texts_of(path: Path, **settings: str) -> list[str]:
    config = DataConfig(**settings)
    return list(read_rows(SourceFile(path, path.name, file_format(path, config)), config, Decoding.of(config)))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.jsonlines", "a.ndjson", "a.jl"])
def test_json_is_read_in_every_layout_whatever_its_ending(tmp_path: Path, name: str) -> None:
    lines = [json.dumps(row) for row in ROWS]
    pretty = [json.dumps(row, indent=2) for row in ROWS]
    contents = ["\n".join(lines), "\r\n\r\n".join(lines), "\r".join(lines), " ".join(lines), "".join(pretty)]
    contents += ["\n".join(pretty), json.dumps(ROWS), json.dumps(ROWS, indent=1), f"\ufeff\n {json.dumps(ROWS)}\n\n"]
    contents += ["[]\n" + json.dumps(ROWS[:1]) + json.dumps(ROWS[1:], indent=4)]
    for content in contents:
        assert texts_of(write(tmp_path, name, content.encode())) == TEXTS, content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"text": 5}', r"field 'text' of line 2 of a.json holds a number, not a text; write a text"),
        ('{"text": true}', "field 'text' of line 1 of a.json holds true or false, not a text"),
        ('{"text": {"a": 1}}', "field 'text' of line 1 of a.json holds an object with the fields a, not a text"),
        ('{"text": ["a", "b"]}', "field 'text' of line 1 of a.json holds a list of texts, not a text"),
        ('{"text": [1, "b"]}', "field 'text' of line 1 of a.json holds a list, not a text"),
        ('["a"]', r"row 1 of a.json \(line 1\) is a text, not a JSON object with fields; convert an array"),
        ("[[]]", r"row 1 of a.json \(line 1\) is a list of texts, not a JSON object"),
        ("null", "line 1 of a.json is null, not a JSON object"),
        ('{"text": ', "line 1 of a.json ends within a JSON value|a.json is not JSON: Expecting value at the end"),
        ('{"text": "a"}\n{"text": "b', "line 2 of a.json is not JSON: Unterminated string at '\"b'; correct it"),
        (
            '{"text": "a"}\n{"text": "b"\n',
            "line 2 of a.json ends within a JSON value: .* at the end; for objects over",
        ),
        ('{"text": "a"}\n{"text": "b"}, {}\n', "line 2 of a.json has more than one JSON value"),
        (
            '{"text": "a"}\n{"text": "b",}\n',
            "line 2 of a.json is not JSON: Expecting property name .* at '}'; correct it",
        ),
        ("Once upon a time", "line 1 of a.json is not JSON: .*; if it is plain text, add --set data.format=text"),
        ('[\n{"text": "a"},\n]', r"a.json is not JSON: Expecting value at '\]', in row 2 \(line 3\)"),
        ('[{"text": "a"}\n{"text": "b"}]', r"a.json is not JSON: a comma is missing in an array, in row 1 \(line 2\)"),
        ('[{"text": "a"}\n', r"a.json is not JSON: it ends within an array, in row 1"),
        ('[{"text": "a"},\n{"text": "b', r"a.json is not JSON: Unterminated string at '\"b', in row 2 \(line 2\)"),
        ("[" * 100_000, r"row 1 of a.json \(line 1\) is nested too deeply"),
        ('{"text": ' + "9" * 10_000 + "}", "line 1 of a.json cannot be decoded: Exceeds the limit"),
        ('{"text": "\\ud83d"}', "line 1 of a.json has half a surrogate pair at character 0"),
        ('{"text": "a", "text": "b"}', "line 1 of a.json has the key 'text' more than once"),
        (
            '{"messages": [{"role": "user", "content": "a", "content": "b"}]}',
            "line 1 of a.json has the key 'content' more than once",
        ),
        ('{"body": "a"}', "line 1 of a.json has no field 'text'; its fields are body; .* --set data.text_field=body"),
        (
            '{"version": 2, "my rows": [{"text": "a"}]}',
            r"""its field 'my rows' is a list of rows; .*jq -c '.\["my rows"\]\[\]' a.json > rows.jsonl""",
        ),
    ],
)
def test_an_error_describes_a_value_that_is_not_a_row(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        texts_of(write(tmp_path, "a.json", content.encode()))


def test_what_spans_lines_is_read_as_the_error_says(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", b'{"text": "a"}\n{\n"text": "b"}\n[{"text": "c"}]')
    with pytest.raises(DataError, match=r"line 2 of a.jsonl ends within a JSON value: .*, add --set data.format=json"):
        texts_of(path)
    assert texts_of(path, format="json") == ["a", "b", "c"]


def test_values_that_stand_for_no_text_are_empty_documents(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", b'{"text": null}\n{"text": NaN}\n{"text": []}\n{"text": "x", "n": NaN, "n": 1}\n')
    assert texts_of(path) == ["", "", "", "x"]


def test_half_a_pair_can_be_replaced_and_files_may_have_been_joined(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"text": "x\\ud83d\\ude00\\ud83d"}\n\xef\xbb\xbf{"text": "y"}')
    assert texts_of(path, encoding_errors="replace") == ["x😀\ufffd", "y"]


def test_an_array_is_read_in_bounded_memory_and_linear_time() -> None:
    def chunks() -> Iterator[str]:
        yield "[ "
        for number in range(2000):
            yield '{"text": "' + "x" * 5000
            yield '"}' + (",\n" if number < 1999 else "]")

    tracemalloc.start()
    places = [str(place) for place, _ in json_values(chunks(), "a")]
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()
    assert places[-1] == "row 2000 of a (line 2000)"


def test_a_program_in_julia_is_a_text(tmp_path: Path) -> None:
    for content, found in ((b"function f(x)\nend\n", "text"), (b'\n{"text": "a"}\n', "jsonl"), (b"", "text")):
        assert file_format(write(tmp_path, "a.jl", content), DataConfig()) == found
