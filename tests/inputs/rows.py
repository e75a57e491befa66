"""Rows of CSV, TSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

from inputs.attempt import Attempt

TEXTS = [f"The text of row {n} says what row {n * 7 % 100} does not, and more." for n in range(100)]
PREPARE = "--set data.tokenizer=byte --cache-dir cache"


def rows_of_csv(delimiter: str = ",", header: bool = True, **options: str) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n", **options)
    writer.writerows([["id", "text"]][:header] + [[n, text] for n, text in enumerate(TEXTS)])
    return out.getvalue()


def keeps(texts: list[str]) -> Callable[[Path], None]:
    """Whether exactly these texts were prepared in the end."""

    def look(folder: Path) -> None:
        (report,) = sorted(folder.glob("cache/tokens/*/report.json"))
        found = json.loads(report.read_text(encoding="utf-8"))
        assert found["train"]["bytes"] + found["val"]["bytes"] == sum(len(text.encode()) for text in set(texts))
        assert found["dropped"]["blank"] + found["dropped"]["duplicates"] == len(texts) - len(set(texts))

    return look


def refused(input: str, content: str, happens: str, says: str, remedy: str, texts: list[str] = TEXTS) -> Attempt:
    """A file of CSV that is refused, and read with the option that the message names."""
    return Attempt(
        input,
        f"gptcli data prepare a.csv {PREPARE}",
        happens,
        code=3,
        says=(says,),
        files={"a.csv": content},
        then=f"gptcli data prepare a.csv {PREPARE} {remedy}",
        left=keeps(texts),
    )


def read(input: str, name: str, content: str, happens: str, options: str = "", says: tuple[str, ...] = ()) -> Attempt:
    """Rows in a file, or for the name `-` on stdin, that are read as they are."""
    return Attempt(
        input,
        f"gptcli data prepare {name} {PREPARE} {options}",
        happens,
        says=says,
        files={} if name == "-" else {name: content},
        stdin=content.encode() if name == "-" else b"",
        left=keeps(TEXTS),
    )


LINES = "".join(f"{text}\n" for text in TEXTS)
OPEN_QUOTE = rows_of_csv(quoting=csv.QUOTE_NONE, escapechar="\\").replace("\\,", ";")
JSON_LINES = "".join(json.dumps({"body": text}) + "\n" for text in TEXTS)
ROWS = [{"text": text} for text in TEXTS]

WITH_MORE = [
    {"system": text, "conversations": [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "Seven."}]}
    for text in TEXTS[::2]
] + [{"instruction": "Count.", "output": "Three.", "history": [[text, "Yes."]]} for text in TEXTS[1::2]]
WITH_MORE_TURNS = [[("system", text), ("user", "How many?"), ("assistant", "Seven.")] for text in TEXTS[::2]] + [
    [("user", text), ("assistant", "Yes."), ("user", "Count."), ("assistant", "Three.")] for text in TEXTS[1::2]
]


def chatml(*turns: tuple[str, str]) -> str:
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)


ATTEMPTS = [
    refused(
        "CSV of one column with commas outside quotes (`text\\nI ate pie, ice cream\\n`)",
        f"text\n{LINES}",
        "names the row; `data.csv_delimiter=''` reads a text from each line",
        r"row 1 of a\.csv \(line 2\) has 2 values",
        "--set data.csv_delimiter=''",
    ),
    refused(
        "CSV with a quote that is never closed",
        OPEN_QUOTE.replace("20,The", '20,"The'),
        "names the row and the line on which the quote opens",
        r"row 21 of a\.csv \(lines 22 to 101\) opens a quote on line 22",
        "--set data.csv_quote=''",
        [text.replace(",", ";") for text in TEXTS[:20]]
        + [f'"{TEXTS[20]}'.replace(",", ";")]
        + [text.replace(",", ";") for text in TEXTS[21:]],
    ),
    refused(
        'CSV with `\\"` for a quote',
        "id,text\n" + "".join(f'{n},"{text} \\"yes\\""\n' for n, text in enumerate(TEXTS)),
        "is refused; `data.csv_escape='\\'` reads it",
        r'has \\" within a quoted value',
        r"--set data.csv_escape=\'\\\'",
        [f'{text} "yes"' for text in TEXTS],
    ),
    refused(
        "CSV with a space between comma and quote",
        rows_of_csv(quoting=csv.QUOTE_ALL).replace('","', '", "'),
        'is refused; `data.csv_delimiter=", "` reads it',
        "a space before 'text' in its header",
        "--set 'data.csv_delimiter=\", \"'",
    ),
    refused(
        "CSV separated by `;`",
        rows_of_csv(";"),
        "is refused; `data.csv_delimiter=';'` reads it (and not `data.text_field='id;text'`)",
        "by semicolons; add --set data.csv_delimiter=';'",
        "--set data.csv_delimiter=';'",
    ),
    refused(
        "CSV separated by tabs",
        rows_of_csv("\t"),
        r"is refused; `data.csv_delimiter='\t'` reads it",
        "by tabs",
        r"--set data.csv_delimiter='\t'",
    ),
    refused(
        "CSV without a header",
        rows_of_csv(header=False),
        "is refused; the column is named by its number",
        r"--set data\.csv_header=false --set data\.text_field=2",
        "--set data.csv_header=false --set data.text_field=2",
    ),
    refused(
        "plain text that is called `.csv`",
        LINES,
        "is refused; `data.format=text` reads it",
        r"if it is plain text, add --set data\.format=text",
        "--set data.format=text",
        [LINES],
    ),
    Attempt(
        "CSV with a column name twice",
        f"gptcli data prepare a.csv {PREPARE}",
        "names the columns and the line",
        code=3,
        says=(r"the header of a\.csv \(line 1\) names columns 1 and 3 both 'text'",),
        files={"a.csv": "text,id,text\na,1,b\n"},
    ),
    Attempt(
        "CSV with a row that is too short",
        f"gptcli data prepare a.csv {PREPARE}",
        "names the row, the line and the numbers of values",
        code=3,
        says=(r"row 101 of a\.csv \(line 102\) has 1 value \('end'\), and the first row has 2",),
        files={"a.csv": rows_of_csv() + "end\n"},
    ),
    refused(
        "CSV with single quotes around its values",
        rows_of_csv(quotechar="'"),
        'is refused; `data.csv_quote="\'"` reads it',
        r"row 1 of a\.csv \(line 2\) has values in single quotes",
        '--set "data.csv_quote=\'"',
    ),
    refused(
        "JSON lines that are called `.csv`",
        "".join(json.dumps({"text": text}) + "\n" for text in TEXTS),
        "is refused; `data.format=jsonl` reads it",
        r"a\.csv has JSON on its first line",
        "--set data.format=jsonl",
    ),
    Attempt(
        "conversations with a `system` prompt, and instructions with a `history`",
        f"gptcli data prepare a.jsonl {PREPARE}",
        "all of it is in the texts",
        files={"a.jsonl": "".join(json.dumps(row) + "\n" for row in WITH_MORE)},
        left=keeps([chatml(*turns) for turns in WITH_MORE_TURNS]),
    ),
    Attempt(
        "conversations with `reasoning_content` or `tool_calls`",
        f"gptcli data prepare a.jsonl {PREPARE}",
        "names the line and the key: ChatML would lose it",
        code=3,
        says=(r"line 1 of a\.jsonl has a message with content in 'reasoning_content'",),
        files={
            "a.jsonl": json.dumps({"messages": [{"role": "assistant", "content": "7", "reasoning_content": "5 + 2"}]})
        },
    ),
    read("CSV with a blank first line", "a.csv", "\n" + rows_of_csv(), "is read"),
    read("CSV with `sep=;` on its first line", "a.csv", "sep=;\n" + rows_of_csv(";"), "is read with that delimiter"),
    read("CSV with a byte order mark", "a.csv", "\ufeff" + rows_of_csv(), "is read"),
    read("CSV with lone carriage returns", "a.csv", rows_of_csv().replace("\n", "\r"), "is read"),
    read("`.tsv`", "a.tsv", rows_of_csv("\t"), "is read as rows"),
    read("`.jl`, `.jsonlines`, `.ndjson`", "a.jl", JSON_LINES, "are read as rows", "--set data.text_field=body"),
    read("a `.json` that is one array", "a.json", json.dumps(ROWS), "is read as rows, in bounded memory"),
    read("a pretty-printed `.json`", "a.json", json.dumps(ROWS, indent=2), "is read as rows"),
    read("a `.jsonl` that is pretty-printed", "a.jsonl", "\n".join(json.dumps(r, indent=2) for r in ROWS), "is read"),
    read(
        "JSON lines on stdin, with `data.text_field`",
        "-",
        JSON_LINES,
        "are read as rows, which is reported",
        "--set data.text_field=body",
        ("standard input is read as JSON lines",),
    ),
    read(
        "CSV on stdin, with `data.format`",
        "-",
        "text\n" + "".join(f'"{text}"\n' for text in TEXTS),
        "is read as rows",
        "--set data.format=csv",
    ),
    Attempt(
        "JSON with a key twice, or a number for the text",
        f"gptcli data prepare a.jsonl {PREPARE}",
        "names the line and the key",
        code=3,
        says=("line 1 of a.jsonl has the key 'text' more than once",),
        files={"a.jsonl": '{"text": "a", "text": "b"}\n'},
    ),
    Attempt(
        "`eval RUN export.csv` of CSV with semicolons",
        "gptcli eval {run} a.csv",
        "gives the same error as `train`: `eval` accepts `--set data.*`",
        code=3,
        says=(r"add --set data\.csv_delimiter=';'",),
        files={"a.csv": rows_of_csv(";")},
        then="gptcli eval {run} a.csv --set data.csv_delimiter=';'",
    ),
    Attempt(
        "`tokenizer train export.csv` of CSV with semicolons",
        "gptcli tokenizer train a.csv --out tokenizer",
        "gives the same error as `train`: `tokenizer train` accepts `--set data.*`",
        code=3,
        says=(r"add --set data\.csv_delimiter=';'",),
        files={"a.csv": rows_of_csv(";")},
        then="gptcli tokenizer train a.csv --out tokenizer --vocab-size 300 --set data.csv_delimiter=';'",
    ),
]
