"""What the user types or names, as conversations that end where the assistant is to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from gptcli.data.example_forms import ChatExample
from gptcli.errors import DataError, UsageError
from gptcli.generate.chat_prompts import read_conversations


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_prompts_are_messages_of_the_user(tmp_path: Path) -> None:
    assert read_conversations("Hello", None) == [ChatExample([user("Hello")])]
    system = {"role": "system", "content": "Be short."}
    assert read_conversations("Hello", None, system="Be short.") == [ChatExample([system, user("Hello")])]
    lines = tmp_path / "lines.txt"
    lines.write_text("One\n\nTwo\n")
    assert read_conversations(None, str(lines)) == [ChatExample([user("One")]), ChatExample([user("Two")])]
    assert read_conversations(None, str(lines), whole_file=True) == [ChatExample([user("One\n\nTwo")])]


def test_conversations_are_asked_again_for_their_last_answer(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        '{"messages": [{"role": "user", "content": "One"}, {"role": "assistant", "content": "1"}, '
        '{"role": "user", "content": "Two"}]}\n'
        '{"prompt": "Three", "completion": "3", "tools": [{"name": "add"}]}\n'
        '{"conversations": [{"from": "human", "value": "Four"}, {"from": "gpt", "value": "4"}]}\n'
    )
    answered = {"role": "assistant", "content": "1"}
    found = [([user("One"), answered, user("Two")], None), ([user("Three")], [{"name": "add"}]), ([user("Four")], None)]
    assert read_conversations(None, str(rows)) == found
    assert read_conversations(None, str(rows), system="Hi")[1].messages[0] == {"role": "system", "content": "Hi"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            '{"messages": [{"role": "system", "content": "A"}, {"role": "user", "content": ""}]}',
            "of its own; leave out",
        ),
        ('{"messages": [{"role": "assistant", "content": "A"}]}', "no message before the answer"),
        ('{"messages": "A"}', "a list of messages is needed"),
        ("", "holds no conversation"),
    ],
)
def test_what_is_no_question_is_refused(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "rows.jsonl").write_text(f"{row}\n")
    with pytest.raises(DataError, match=message):
        read_conversations(None, str(tmp_path / "rows.jsonl"), system="Hi")


def test_a_message_is_needed() -> None:
    with pytest.raises(UsageError, match="--chat needs a message to answer"):
        read_conversations(None, None)
    with pytest.raises(UsageError, match="the message is empty"):
        read_conversations(" ", None)
