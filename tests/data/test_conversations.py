"""Conversations and instructions in their usual forms become the text of their template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gptcli.data.config import DataConfig
from gptcli.data.conversations import conversation_fields, conversation_of
from gptcli.data.corpus import corpus_documents
from gptcli.errors import DataError

ASKED = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Seven."}]
WITH_INPUT = [{"role": "user", "content": "Count.\n\nabc"}, {"role": "assistant", "content": "Three."}]
FORMS: dict[str, tuple[dict[str, Any], list[dict[str, str]]]] = {
    "messages": ({"messages": ASKED, "id": 1}, ASKED),
    "ShareGPT": (
        {"conversations": [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "Seven."}]},
        ASKED,
    ),
    "Alpaca": ({"instruction": "Count.", "input": "abc", "output": "Three."}, WITH_INPUT),
    "Alpaca without an input": ({"instruction": "How many?", "input": "", "output": "Seven."}, ASKED),
    "Dolly": ({"instruction": "Count.", "context": "abc", "response": "Three.", "category": "x"}, WITH_INPUT),
    "a system prompt beside turns": (
        {"system": "Be brief.", "conversations": [{"from": "human", "value": "How many?"}]},
        [{"role": "system", "content": "Be brief."}, ASKED[0]],
    ),
    "Alpaca with a history": (
        {"instruction": "Count.", "input": "abc", "output": "Three.", "history": [["How many?", "Seven."]]},
        [*ASKED, *WITH_INPUT],
    ),
    "Alpaca with a history of messages": (
        {"instruction": "Count.", "input": "abc", "output": "Three.", "history": ASKED},
        [*ASKED, *WITH_INPUT],
    ),
    "Alpaca with an empty system prompt and no history": (
        {"instruction": "How many?", "output": "Seven.", "system": "", "history": None},
        ASKED,
    ),
    "completion": ({"prompt": "How many?", "completion": "Seven."}, ASKED),
    "response": ({"prompt": "How many?", "response": "Seven."}, ASKED),
    "messages and a completion": ({"prompt": ASKED[:1], "completion": "Seven."}, ASKED),
    "a prompt and messages": ({"prompt": "How many?", "completion": ASKED[1:]}, ASKED),
    "completion of messages": ({"prompt": ASKED[:1], "completion": ASKED[1:]}, ASKED),
}


def chatml(messages: list[dict[str, str]]) -> str:
    return "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "arrow"])
def test_a_row_becomes_the_text_of_its_conversation(tmp_path: Path, form: str, kind: str) -> None:
    row, messages = FORMS[form]
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text(json.dumps(row) + "\n" + json.dumps(row))
    else:
        table = pa.Table.from_pylist([row, row])
        if kind == "parquet":
            pq.write_table(table, path)
        else:
            with pa.ipc.new_stream(path, table.schema) as writer:
                writer.write_table(table)
    found = [document.text for document in corpus_documents([str(path)], DataConfig(), tmp_path / "cache")]
    assert found == [chatml(messages)] * 2


def test_a_field_text_comes_first_and_another_field_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "plain", "prompt": "asked", "completion": "said"}))
    for field, text in (("text", "plain"), ("prompt", "asked")):
        (document,) = corpus_documents([str(path)], DataConfig(text_field=field), tmp_path / "cache")
        assert document.text == text
    with pytest.raises(DataError, match="has no field 'body'"):
        list(corpus_documents([str(path)], DataConfig(text_field="body"), tmp_path / "cache"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "asked"}, "has no field 'text'; its fields are prompt"),
        ({"messages": "hello"}, None),
        ({"messages": [{"content": "x"}]}, "line 1 of .* is not a conversation"),
        ({"conversations": [{"from": "human"}]}, "line 1 of .* cannot be rendered"),
        ({"instruction": "Count.", "output": 3}, "line 1 of .* cannot be rendered"),
        ({"prompt": "a", "response": "b", "history": "c"}, "line 1 of .* is not a conversation"),
        ({"prompt": "a", "response": "b", "history": [["c"]]}, "line 1 of .* is not a conversation"),
        ({"instruction": "a", "input": {"b": "c"}, "output": "d"}, "line 1 of .* cannot be rendered"),
        ({"conversations": 3}, "field 'conversations' of line 1 of .* holds a number, not a text"),
    ],
)
def test_a_row_that_is_not_a_conversation_gives_one_line(tmp_path: Path, row: dict, message: str | None) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    if message is None:  # a conversation that someone has rendered already
        assert [document.text for document in corpus_documents([str(path)], DataConfig(), tmp_path)] == ["hello"]
        return
    with pytest.raises(DataError, match=message):
        list(corpus_documents([str(path)], DataConfig(), tmp_path / "cache"))


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ({"role": "assistant", "content": "Seven.", "reasoning_content": "I count."}, "'reasoning_content'"),
        ({"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "count"}}]}, "'tool_calls'"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}]},
            "parts that are not text",
        ),
        ({"from": "gpt", "value": "Seven.", "thinking": "I count."}, "'thinking'"),
    ],
)
def test_text_that_chatml_would_lose_is_refused_unless_the_template_writes_it(
    tmp_path: Path, message: dict[str, Any], lost: str
) -> None:
    path, template = tmp_path / "rows.jsonl", tmp_path / "all.jinja"
    path.write_text(json.dumps({"conversations": [ASKED[0], message]}))
    with pytest.raises(DataError, match=f"line 1 of .* has a message with content in {lost}"):
        list(corpus_documents([str(path)], DataConfig(), tmp_path / "cache"))
    template.write_text("{{ messages | tojson }}")
    (document,) = corpus_documents([str(path)], DataConfig(chat_template=str(template)), tmp_path / "cache")
    assert all(json.dumps(value) in document.text for value in message.values() if value not in ("gpt",))


def test_parts_of_text_are_joined_and_keys_without_a_value_are_no_loss(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    parts = [{"type": "text", "text": "How "}, {"type": "text", "text": "many?"}]
    path.write_text(json.dumps({"messages": [{"role": "user", "content": parts}, {**ASKED[1], "tool_calls": None}]}))
    (document,) = corpus_documents([str(path)], DataConfig(), tmp_path / "cache")
    assert document.text == chatml(ASKED)


def test_a_question_without_an_answer_is_in_no_form() -> None:
    assert conversation_fields(["prompt", "input"]) == ()
    assert conversation_fields(["output", "id"]) == ()
    assert conversation_of({"prompt": "a", "completion": "b", "messages": ASKED}) == ASKED
