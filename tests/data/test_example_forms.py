"""Rows in the usual forms become conversations and preferences, and all others are refused with one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gptcli.data.config import DataConfig
from gptcli.data.decoding import Decoding
from gptcli.data.example_forms import ChatExample, Preference, example_of
from gptcli.data.example_rows import read_examples, read_preferences
from gptcli.data.field_names import FieldNames
from gptcli.data.file_formats import SourceFile, format_by_ending
from gptcli.data.messages import empty_answers, is_out_of_order
from gptcli.data.recognize import looks_like
from gptcli.errors import DataError

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "How many?"}
ANSWER = {"role": "assistant", "content": "Seven."}
ASKED = [USER, ANSWER]
CALL = {"type": "function", "function": {"name": "count", "arguments": {"of": "geese"}}}
TOOL = {"type": "function", "function": {"name": "count", "parameters": {}}}


def examples(path: Path, config: DataConfig | None = None) -> list[ChatExample]:
    config = config or DataConfig()
    file = SourceFile(path, "a", format_by_ending(path))
    return [example for _, example in read_examples(file, config, Decoding.of(config))]


def preferences(path: Path, config: DataConfig | None = None) -> list[Preference]:
    config = config or DataConfig()
    file = SourceFile(path, "a", format_by_ending(path))
    return [preference for _, preference in read_preferences(file, config, Decoding.of(config))]


def lines(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


FORMS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "two additions, of which the first is empty": (
        {"instruction": "How", "input": "", "context": "many?", "output": "Seven."},
        [{**USER, "content": "How\n\nmany?"}, ANSWER],
    ),
    "two additions": (
        {"instruction": "How", "input": "many", "context": "geese?", "output": "Seven."},
        [{**USER, "content": "How\n\nmany\n\ngeese?"}, ANSWER],
    ),
    "two names of a system message": (
        {"messages": ASKED, "system": "", "system_prompt": "Be brief."},
        [SYSTEM, *ASKED],
    ),
    "messages": ({"messages": ASKED, "id": 1}, ASKED),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "Seven."}]},
        ASKED,
    ),
    "ShareGPT with tools": (
        {
            "conversations": [
                {"from": "human", "value": "How many?"},
                {"from": "function_call", "value": json.dumps(CALL["function"])},
                {"from": "observation", "value": "7"},
                {"from": "gpt", "value": "Seven."},
            ],
            "system": "Be brief.",
        },
        [
            SYSTEM,
            USER,
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "7"},
            ANSWER,
        ],
    ),
    "OpenAI's older calls": (
        {
            "messages": [
                USER,
                {"role": "assistant", "content": None, "function_call": CALL["function"]},
                {"role": "function", "name": "count", "content": "7"},
            ]
        },
        [
            USER,
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "7", "name": "count"},
        ],
    ),
    "calls of tools": (
        {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
        [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}],
    ),
    "parts of text, and keys without a value": (
        {
            "messages": [
                {"role": "User ", "content": [{"type": "text", "text": "How "}, "many?"], "name": None},
                {"role": "BOT", "content": "Seven.", "tool_calls": None, "weight": 1},
            ]
        },
        [USER, {**ANSWER, "weight": 1}],
    ),
    "messages as a text": ({"messages": json.dumps(ASKED)}, ASKED),
    "Alpaca": (
        {"instruction": "Count.", "input": "abc", "output": "Three."},
        [{"role": "user", "content": "Count.\n\nabc"}, {"role": "assistant", "content": "Three."}],
    ),
    "an empty field beside a full one": ({"instruction": "", "prompt": "How many?", "output": "Seven."}, ASKED),
    "the same in two fields": ({"instruction": "How many?", "prompt": "How many?", "output": "Seven."}, ASKED),
    "prompt and completion": ({"prompt": "How many?", "completion": "Seven.", "system": None}, ASKED),
    "messages in prompt and completion": ({"prompt": [SYSTEM, USER], "completion": [ANSWER]}, [SYSTEM, *ASKED]),
    "question and answer": ({"question": "How many?", "answer": "Seven."}, ASKED),
    "query and response": ({"query": "How many?", "response": "Seven."}, ASKED),
    "a system prompt twice": ({"system": "Be brief.", "messages": [SYSTEM, *ASKED]}, [SYSTEM, *ASKED]),
    "an integer": (
        {"question": "How many?", "answer": 0},
        [USER, {"role": "assistant", "content": "0"}],
    ),
    "null and NaN": (
        {"question": "How many?", "input": float("nan"), "answer": None},
        [USER, {"role": "assistant", "content": ""}],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_row_in_a_known_form_is_an_example(tmp_path: Path, form: str) -> None:
    row, messages = FORMS[form]
    assert examples(lines(tmp_path, row, row)) == [ChatExample(messages)] * 2


def test_rows_of_different_forms_may_be_in_one_file(tmp_path: Path) -> None:
    rows = [FORMS[form][0] for form in FORMS]
    assert [example.messages for example in examples(lines(tmp_path, *rows))] == [FORMS[form][1] for form in FORMS]


def test_tools_go_with_an_example_as_a_list_as_json_or_as_functions(tmp_path: Path) -> None:
    tools: list[Any] = [[TOOL], json.dumps([TOOL]), None, []]
    rows = [{"messages": ASKED, "tools": one} for one in tools] + [{"messages": ASKED, "functions": [TOOL["function"]]}]
    assert [example.tools for example in examples(lines(tmp_path, *rows))] == [[TOOL], [TOOL], None, None, [TOOL]]


def test_columns_give_the_messages_that_lines_give(tmp_path: Path) -> None:
    rows = [{"messages": [USER, {**ANSWER, "name": "Ada"}]}, {"messages": ASKED}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert examples(tmp_path / "a.parquet") == examples(lines(tmp_path, *rows))
    pq.write_table(pa.Table.from_pylist([{"question": "2 + 2", "answer": 4, "id": 1}]), tmp_path / "b.parquet")
    assert examples(tmp_path / "b.parquet")[0].messages[1]["content"] == "4"


def test_columns_of_csv_are_read_by_the_names_of_the_user_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Frage,Antwort,system\nHow many?,Seven.,Be brief.\n")
    named = FieldNames(prompt="Frage", completion="Antwort")
    assert examples(tmp_path / "a.csv", DataConfig(fields=named)) == [ChatExample(ASKED)]
    (tmp_path / "b.csv").write_text("1,How many?,Seven.\n")
    by_number = DataConfig(fields=FieldNames(prompt=2, completion=3), csv_header=False)
    assert examples(tmp_path / "b.csv", by_number) == [ChatExample(ASKED)]
    (tmp_path / "c.csv").write_text("question;answer\nHow many?;Seven.\n")
    with pytest.raises(DataError, match=r"by semicolons; add --set data\.csv_delimiter=';'$"):
        examples(tmp_path / "c.csv")


def test_named_fields_are_a_text_for_training_on_text_too(tmp_path: Path) -> None:
    from gptcli.data.corpus import corpus_documents

    path = lines(tmp_path, {"text": "no", "turns": ASKED})
    config = DataConfig(fields=FieldNames(messages="turns"))
    (document,) = corpus_documents([str(path)], config, tmp_path / "cache")
    assert document.text == "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\nSeven.<|im_end|>\n"


@pytest.mark.parametrize("names", [{"prompt": "a"}, {"prompt": "a", "completion": "a"}, {"system": "a"}])
def test_names_of_half_a_form_are_refused(names: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"no whole form|in one field"):
        FieldNames(**names)


REFUSED: dict[str, tuple[Any, str]] = {
    "no form": ({"title": "x"}, "line 1 of a has no fields of an example in a known form; its fields are title; name"),
    "a role": (
        {"messages": [USER, {"role": "narrator", "content": "x"}]},
        "message 2 of line 1 of a has the role 'narrator'; write one of system, developer, user, assistant, tool",
    ),
    "a role that is no text": ({"messages": [{"role": 3, "content": "x"}]}, "message 1 of line 1 of a has the role 3"),
    "a speaker that is no text": ({"conversations": [{"from": ["x"], "value": "x"}]}, r"has the role \['x'\]"),
    "no role": ({"messages": [{"content": "x"}]}, "message 1 of line 1 of a has the keys content; write it as"),
    "texts": ({"messages": ["x", "y"]}, "message 1 of line 1 of a is a text; write"),
    "no messages": ({"messages": []}, "line 1 of a holds an empty list where a list of messages is needed"),
    "a rendered text": ({"messages": "hello"}, "line 1 of a holds a text where a list"),
    "messages as damaged JSON": ({"messages": "[{'role': 1}]"}, "line 1 of a holds a text that is not JSON"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}]}]},
        r"message 1 of line 1 of a has parts that are not text \(image_url\)",
    ),
    "a number with a fraction": ({"question": "x", "answer": 0.5}, "field 'answer' of line 1 of a holds a number"),
    "true": ({"question": "x", "answer": True}, "field 'answer' of line 1 of a holds true or false"),
    "an object": ({"question": "x", "answer": {"text": "y"}}, "holds an object with the fields text, not a text"),
    "a weight": ({"messages": [{**USER, "weight": 0.3}]}, r"message 1 of line 1 of a has the weight 0\.3"),
    "two prompts": (
        {"prompt": "x", "question": "y", "answer": "z"},
        "'prompt' and 'question', and which of them to read is not clear; name the fields: --set data.fields.prompt=",
    ),
    "two answers": ({"prompt": "x", "output": "y", "answer": "z"}, "has 'output' and 'answer', and which"),
    "two system messages": (
        {"system": "Be long.", "messages": [SYSTEM, *ASKED]},
        "line 1 of a has another system message in 'system' than in its messages",
    ),
    "two fields of system messages": (
        {"system": "Be long.", "system_prompt": "Be brief.", "prompt": "x", "completion": "y"},
        "line 1 of a has two system messages, in 'system' and 'system_prompt'",
    ),
    "a preference": ({"prompt": "x", "chosen": "y", "rejected": "z"}, "line 1 of a is a preference"),
    "a judgement": ({"prompt": "x", "completion": "y", "label": False}, "line 1 of a has 'label' .* as KTO learns"),
    "a judgement in numbers": ({"prompt": "x", "completion": "y", "label": 0}, "line 1 of a has 'label' .* as KTO"),
    "tools that are none": ({"messages": ASKED, "tools": "count"}, "field 'tools' of line 1 of a holds a text that is"),
    "a role twice": ('{"messages": [{"role": "user", "role": "x", "content": "y"}]}', "has the key 'role' more than"),
    "half a surrogate pair": ('{"question": "a\\ud83d", "answer": "b"}', "line 1 of a has half a surrogate pair"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_row_that_is_no_example_gives_one_line(tmp_path: Path, case: str) -> None:
    row, message = REFUSED[case]
    with pytest.raises(DataError, match=message) as failure:
        examples(lines(tmp_path, row))
    assert "\n" not in str(failure.value)


def test_plain_text_is_no_file_of_examples(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("It rains.")
    with pytest.raises(DataError, match="a is plain text, and examples are rows"):
        examples(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("31.12.23, 21:15 - Ben: Hello\n")
    with pytest.raises(DataError, match=r"a is a chat that WhatsApp exported, .*gptcli data conversations a --me NAME"):
        examples(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"%PDF-1.7\n")
    with pytest.raises(DataError, match=r"a is a PDF document; .*pdftotext"):
        examples(tmp_path / "a.txt")


WORSE = {"role": "assistant", "content": "Who knows?"}
DECIDED = Preference([USER], [ANSWER], [WORSE])
PAIRS: dict[str, tuple[dict[str, Any], Preference]] = {
    "texts": ({"prompt": "How many?", "chosen": "Seven.", "rejected": "Who knows?"}, DECIDED),
    "messages": ({"prompt": [USER], "chosen": [ANSWER], "rejected": [WORSE]}, DECIDED),
    "one message each": ({"conversations": [USER], "chosen": ANSWER, "rejected": WORSE}, DECIDED),
    "a prompt that the answers repeat": (
        {"prompt": "How many?", "chosen": [USER, ANSWER], "rejected": [USER, WORSE]},
        DECIDED,
    ),
    "a prompt in the answers alone": ({"chosen": [USER, ANSWER], "rejected": [USER, WORSE]}, DECIDED),
    "answers that begin alike": (
        {"prompt": [USER], "chosen": [ANSWER, USER, ANSWER], "rejected": [ANSWER, USER, WORSE]},
        Preference([USER, ANSWER, USER], [ANSWER], [WORSE]),
    ),
    "a question with a system message": (
        {"system": "Be brief.", "question": "How many?", "chosen": "Seven.", "rejected": "Who knows?"},
        Preference([SYSTEM, USER], [ANSWER], [WORSE]),
    ),
    "an instruction with an input": (
        {"instruction": "Count.", "input": "abc", "chosen": "3", "rejected": 4},
        Preference(
            [{"role": "user", "content": "Count.\n\nabc"}],
            [{"role": "assistant", "content": "3"}],
            [{"role": "assistant", "content": "4"}],
        ),
    ),
    "tools": (
        {"prompt": "How many?", "chosen": "Seven.", "rejected": "Who knows?", "tools": [TOOL]},
        DECIDED._replace(tools=[TOOL]),
    ),
}


@pytest.mark.parametrize("form", PAIRS)
def test_a_row_in_a_known_form_is_a_preference(tmp_path: Path, form: str) -> None:
    row, expected = PAIRS[form]
    found = preferences(lines(tmp_path, row))
    assert found == [expected]
    assert not found[0].is_undecided


def test_equal_answers_are_a_preference_that_says_nothing(tmp_path: Path) -> None:
    rows = [{"prompt": "x", "chosen": "y", "rejected": "y"}, {"chosen": ASKED, "rejected": ASKED}]
    assert [one.is_undecided for one in preferences(lines(tmp_path, *rows))] == [True, True]


UNDECIDED: dict[str, tuple[dict[str, Any], str]] = {
    "no rejected": ({"prompt": "x", "chosen": "y"}, "line 1 of a has no field 'rejected'; write two answers"),
    "an example": ({"prompt": "x", "completion": "y"}, "line 1 of a has one answer, and a preference has two"),
    "a judgement": ({"prompt": "x", "completion": "y", "label": True}, "line 1 of a has one answer, and a preference"),
    "another row": ({"title": "x"}, "line 1 of a has no fields 'chosen' and 'rejected'; its fields are title"),
    "no prompt": ({"chosen": "y", "rejected": "z"}, "line 1 of a has no prompt, and its answers are texts"),
    "no shared beginning": ({"chosen": [ANSWER], "rejected": [WORSE]}, "line 1 of a has no prompt, and its answers"),
    "an answer of the user": (
        {"prompt": "x", "chosen": [USER, ANSWER], "rejected": "z"},
        "'chosen' of line 1 of a begins with the role 'user', and other messages than the prompt",
    ),
    "an answer that is the prompt": (
        {"prompt": [USER], "chosen": [USER], "rejected": [USER, ANSWER]},
        "'chosen' of line 1 of a ends where the prompt ends",
    ),
    "an empty list": ({"prompt": "x", "chosen": [], "rejected": "z"}, "'chosen' of line 1 of a holds an empty list"),
}


@pytest.mark.parametrize("case", UNDECIDED)
def test_a_row_that_is_no_preference_gives_one_line(tmp_path: Path, case: str) -> None:
    row, message = UNDECIDED[case]
    with pytest.raises(DataError, match=message):
        preferences(lines(tmp_path, row))


def test_turns_out_of_order_and_empty_answers_are_found_and_left_as_they_are(tmp_path: Path) -> None:
    silent = {"role": "assistant", "content": " "}
    usual = [[SYSTEM, USER, ANSWER], [USER, {**ANSWER, "tool_calls": [CALL]}, {"role": "tool", "content": "7"}, ANSWER]]
    unusual = [[USER, USER, ANSWER], [ANSWER], [USER, SYSTEM, ANSWER], [USER, silent, ANSWER]]
    found = examples(lines(tmp_path, *({"messages": messages} for messages in usual + unusual)))
    assert [example.messages for example in found] == usual + unusual
    assert [is_out_of_order(example.messages) for example in found] == [False, False, True, True, True, True]
    assert [empty_answers(example.messages) for example in found] == [0, 0, 0, 0, 0, 1]


def test_a_row_that_is_nested_deeply_is_refused(tmp_path: Path) -> None:
    for levels in (65, 400, 5000):
        calls = f"{'[' * levels}1{']' * levels}"
        row = f'{{"messages": [{{"role": "user", "content": "x", "tool_calls": {calls}}}]}}'
        with pytest.raises(DataError, match=r"line 1 of a .*nested"):
            examples(lines(tmp_path, row))


def test_rows_without_an_ending_are_recognised_by_what_is_read_of_them(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    for text, found in (("question,answer\nx,y\n", "csv"), ('{"question": "x", "answer": "y"}\n', "jsonl")):
        path.write_text(text)
        assert looks_like(path, DataConfig(kind="examples")) == found
        assert looks_like(path, DataConfig(kind="preferences")) == "text"
    path.write_text("prompt\tchosen\trejected\nx\ty\tz\n")
    assert looks_like(path, DataConfig(kind="preferences")) == "tsv"
    assert looks_like(path, DataConfig()) == "text"


def test_a_row_from_elsewhere_is_in_a_known_form_too() -> None:
    with pytest.raises(DataError, match=r"row 1 has no fields of an example in a known form; its fields are title"):
        example_of({"title": "x"}, "row 1")
