"""Rows of CSV: a row that does not fit the header is an error whose remedy works, and is never guessed at."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from data_files import write
from gptcli.config import merge, parse_assignment, validate
from gptcli.data.config import DataSettings
from gptcli.data.decoding import Decoding
from gptcli.data.file_formats import SourceFile, format_by_ending
from gptcli.data.rows import read_rows
from gptcli.errors import ConfigError, DataError


def texts_of(path: Path, *assignments: str) -> list[str]:
    config = validate(DataSettings, merge(*map(parse_assignment, assignments))).data
    if config.format == "text":
        return [path.read_text()]
    return list(read_rows(SourceFile(path, path.name, format_by_ending(path)), config, Decoding.of(config)))


def remedies_in(message: str) -> list[str]:
    """Return the assignments that a message offers, as a shell parses them."""
    return [shlex.split(found)[0] for found in re.findall(r"""--set ((?:'[^']*'|"[^"]*"|[^\s;,'"])+)""", message)]


def numbered(count: int, form: str) -> str:
    return "".join(form.replace("#", str(number)) for number in range(1, count + 1))


FAULTS = {
    "a text with commas that is not quoted": (
        "text\nI ate pie, ice cream\nshe, he, they\n",
        r"row 1 of a.csv \(line 2\) has 2 values \('I ate pie', ' ice cream'\), and the first row has 1",
        ["I ate pie, ice cream", "she, he, they"],
    ),
    "a quote that is never closed": (
        "id,text\n" + numbered(19, "#,row #\n") + '20,"row 20\n' + numbered(180, "#,more\n"),
        r"row 20 of a.csv \(lines 21 to 201\) opens a quote on line 21 that is never closed",
        [f"row {n}" for n in range(1, 20)] + ['"row 20'] + ["more"] * 180,
    ),
    "a quote that opens within a row of several lines": (
        'id,text,more\n1,"a\nb","c\n2,d,e\n',
        r"row 1 of a.csv \(lines 2 to 4\) opens a quote on line 3 that is never closed",
        None,
    ),
    "a quote that the next row closes": (
        "id,text\n" + numbered(19, '#,"row #"\n') + '20,"row 20\n' + numbered(5, '#,"more"\n'),
        r"row 20 of a.csv \(lines 21 to 22\) continues after the quote that closes a value, which was opened on line",
        [f'"row {n}"' for n in range(1, 20)] + ['"row 20'] + ['"more"'] * 5,
    ),
    "quotes within a quoted value": (
        'id,text\n1,"a "b" c"\n',
        r"row 1 of a.csv \(line 2\) continues after the quote",
        ['"a "b" c"'],
    ),
    "escaped quotes": (
        "text\n" + numbered(200, '"row #: \\"hello\\", C:\\new"\n'),
        r'row 1 of a.csv \(line 2\) has \\" within a quoted value',
        [f'row {n}: "hello", C:\\new' for n in range(1, 201)],
    ),
    "escaped quotes at the end": (
        'id,text\n1,"say \\"hi\\""\n2,"\\"b\\""\n',
        r'row 1 of a.csv \(line 2\) has \\" within a quoted value',
        ['say "hi"', '"b"'],
    ),
    "a space before a quoted value with a comma": (
        'id,text\n1, "a, b"\n2, "c"\n',
        r"row 1 of a.csv \(line 2\) has a space between ',' and a quote",
        ["a, b", "c"],
    ),
    "a space before a quoted value": (
        'id,text\n1," ""quoted"" "\n2, "c"\n',
        r"row 2 of a.csv \(line 3\) has a space between ',' and a quote",
        [' "quoted" ', "c"],
    ),
    "spaces in the header": ('id, text\n1, "a"\n', "a.csv has a space before 'text' in its header", ["a"]),
    "spaces before every quote": (
        '"id", "text"\n"1", "a, b"\n',
        "a.csv has a space before 'text' in its header",
        ["a, b"],
    ),
    "too few values": (
        "id,text\n1,a\n2\n",
        r"row 2 of a.csv \(line 3\) has 1 value \('2'\), and the first row has 2",
        None,
    ),
    "too many values": ("id,text\n1,a,b\n", r"row 1 of a.csv \(line 2\) has 3 values \('1', 'a', 'b'\)", None),
    "a column name twice": (
        "id,text,text\n1,a,b\n",
        r"the header of a.csv \(line 1\) names columns 2 and 3 both 'text'; rename one of them on line 1",
        None,
    ),
    "plain text": (
        "Once upon a time, there was a king.\nHe lived.\nAnd, then, he died.\n",
        "a.csv has no column 'text' and is probably not CSV: its first rows have 2, 1, 3 values",
        ["Once upon a time, there was a king.\nHe lived.\nAnd, then, he died.\n"],
    ),
    "semicolons": (
        "id;text\n1;a, b\n2;c\n",
        r"a.csv separates its columns \('id', 'text'\) by semicolons",
        ["a, b", "c"],
    ),
    "semicolons and another name": (
        "id;body\n1;a, b\n2;c\n",
        r"a.csv separates its columns \('id', 'body'\) by semicolons",
        ["a, b", "c"],
    ),
    "tabs": ("id\ttext\n1\ta, b\n", "a.csv separates its columns .* by tabs", ["a, b"]),
    "vertical bars": ("id|text\n1|a, b\n", "a.csv separates its columns .* by vertical bars", ["a, b"]),
    "another name": (
        "id,body\n1,a longer text\n",
        "a.csv has no field 'text'; its fields are id, body",
        ["a longer text"],
    ),
    "a carriage return within a line": (
        "id,text\n1,a\rb\n",
        r"row 1 of a.csv \(line 2\) has a carriage return \(\\r\) outside quotes",
        None,
    ),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_row_that_does_not_fit_is_named_and_the_remedy_reads_it(tmp_path: Path, fault: str) -> None:
    content, message, texts = FAULTS[fault]
    path = write(tmp_path, "a.csv", content.encode())
    with pytest.raises(DataError, match=message) as raised:
        texts_of(path)
    if texts is not None:
        assert texts_of(path, *remedies_in(str(raised.value))) == texts


def test_json_lines_that_are_called_csv_are_recognised(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b'{"text": "one, two", "n": 1}\n{"text": "three, four", "n": 2}\n')
    with pytest.raises(DataError, match=r"a\.csv has JSON on its first line") as raised:
        texts_of(path)
    assert raised.value.remedy == "add --set data.format=jsonl"


@pytest.mark.parametrize("header", ["id,text", "'id','text'"])
def test_values_in_single_quotes_are_recognised(tmp_path: Path, header: str) -> None:
    path = write(tmp_path, "a.csv", f"{header}\n1,'one, two'\n2,'it''s'\n".encode())
    with pytest.raises(DataError, match="has values in single quotes") as raised:
        texts_of(path)
    assert texts_of(path, *remedies_in(str(raised.value))) == ["one, two", "it's"]


def test_a_file_without_a_header_is_read_by_the_numbers_of_its_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b'1,a longer text\n2,"another, longer"\n')
    with pytest.raises(DataError, match="its first row is probably not a header: '1', 'a longer text'") as raised:
        texts_of(path)
    header, column, _ = remedies_in(str(raised.value))
    assert texts_of(path, header, column) == ["a longer text", "another, longer"]
    with pytest.raises(DataError, match=r"a.csv has 2 columns without names") as raised:
        texts_of(path, header)
    assert texts_of(path, header, *remedies_in(str(raised.value))) == ["a longer text", "another, longer"]
    single = write(tmp_path, "b.csv", b"This one has one column only.\nAnd no name.\n")
    with pytest.raises(DataError, match="its first row is probably not a header") as raised:
        texts_of(single)
    assert texts_of(single, remedies_in(str(raised.value))[0]) == ["This one has one column only.", "And no name."]


@pytest.mark.parametrize(
    "content",
    [
        "\n \nid,text\n\n1,a\n   \n2,b\n,\n",
        "sep=;\nid;text\n1;a\n2;b\n;\n",
        '"sep=;"\r\nid;text\r\n1;a\r\n2;b\r\n;\r\n',
        "\ufeffid,text\n1,a\n2,b\n3,\n",
        "id,text\r1,a\r2,b\r3,\r",
        'id,"text"\r\n1,"a"\r\n2,b\r\n3,""',
        "id,id,text\n1,1,a\n2,1,b\n3,1,\n",
    ],
)
def test_what_spreadsheets_and_old_systems_write_is_read(tmp_path: Path, content: str) -> None:
    assert texts_of(write(tmp_path, "a.csv", content.encode())) == ["a", "b", ""]


def test_a_value_longer_than_any_text_is_a_quote_that_is_not_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptcli.data.csv_dialect.MAX_VALUE_CHARACTERS", 1000)
    path = write(tmp_path, "a.csv", ('id,text\n1,a\n2,"b\n' + "3,c\n" * 1000).encode())
    with pytest.raises(DataError, match=r"row 2 of a.csv .* which begins on line 3; close its quote"):
        texts_of(path)
    with pytest.raises(DataError, match=r"row 1 of a.csv .* which begins on line 2; if it is plain text"):
        texts_of(write(tmp_path, "a.csv", b"id,text\n" + b"x" * 2000))


def test_tabs_separate_the_values_of_tsv(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", b'id\ttext\n1\ta, "b"\n2\t"c\td"\n')
    assert texts_of(path) == ['a, "b"', "c\td"]
    path = write(tmp_path, "a.tsv", b'id\ttext\n1\t"Hello," he said\n')
    with pytest.raises(DataError, match=r"continues after the quote that closes a value without '\\t'") as raised:
        texts_of(path)
    assert texts_of(path, *remedies_in(str(raised.value))) == ['"Hello," he said']


@pytest.mark.parametrize(
    ("content", "assignments", "message"),
    [
        ("|id|,|body|\n|1|,|a|\n", ["data.csv_quote=|"], "has no field 'text'; its fields are id, body"),
        ("my text\na b\n", ["data.csv_delimiter="], "has no field 'text'; its fields are my text"),
        ('text\n"a" b\n', ["data.csv_delimiter="], "continues after the quote that closes a value without a line end"),
        ("id,text\n1,a\\\n2\n", ["data.csv_quote="], r"row 2 of a.csv \(line 3\) has 1 value"),
        ('id,text\r1,a\r2,"b\r3,c\r', [], r"row 2 of a.csv \(lines 3 to 4\) opens a quote on line 3"),
        ('id,text\n1,"a\n', ["data.csv_escape=,", "data.csv_delimiter=;"], "has no field 'text'|separates its columns"),
    ],
)
def test_errors_name_their_place_in_every_dialect(
    tmp_path: Path, content: str, assignments: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        texts_of(write(tmp_path, "a.csv", content.encode()), *assignments)


def test_characters_of_a_dialect_must_differ() -> None:
    for value in ("csv_delimiter=ab", 'csv_delimiter="\\n"', 'csv_delimiter="', "csv_escape=,", "csv_quote=ab"):
        with pytest.raises(ConfigError, match="csv_"):
            validate(DataSettings, parse_assignment(f"data.{value}"))
