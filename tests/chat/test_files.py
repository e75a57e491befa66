"""Transcripts in files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetuning import write_base
from gptcli.chat.files import SavedFiles
from gptcli.errors import DataError, StorageError, UsageError
from tiny_chat import SAMPLED, dialogue_of, tiny_session

ROW = '{"messages": []}\n'


def test_a_file_that_this_chat_has_not_written_stays_as_it_is(tmp_path: Path) -> None:
    saved, path = SavedFiles(), tmp_path / "chat.jsonl"
    path.write_text("mine")
    with pytest.raises(UsageError, match="exists already; give another name"):
        saved.save(str(path), ROW, (".jsonl",))
    assert path.read_text() == "mine"
    own = tmp_path / "new" / "own.jsonl"
    for content in (ROW, ROW + ROW):
        saved.save(str(own), content, (".jsonl",))
        assert own.read_text() == content
    own.write_text("changed")
    with pytest.raises(UsageError, match="exists already"):
        saved.save(str(own), ROW, (".jsonl",))
    assert own.read_text() == "changed"


@pytest.mark.parametrize("is_dangling", [True, False])
def test_nothing_is_written_through_a_link(tmp_path: Path, is_dangling: bool) -> None:
    link, target = tmp_path / "chat.txt", tmp_path / "target.txt"
    link.symlink_to(target)
    if not is_dangling:
        target.write_text("mine")
    with pytest.raises(StorageError, match="symbolic link"):
        SavedFiles().save(str(link), "text", ())
    assert target.exists() != is_dangling and link.is_symlink()


def test_names_by_which_a_file_would_be_read_as_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"write /save chat\.jsonl"):
        SavedFiles().save(str(tmp_path / "chat.txt"), ROW, (".jsonl",))
    with pytest.raises(UsageError, match=r"write /save story\.txt"):
        SavedFiles().save(str(tmp_path / "story.jsonl"), "text", ())
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StorageError, match="No space left"):
        SavedFiles().save(str(tmp_path / "chat.jsonl"), ROW, (".jsonl",))
    assert list(tmp_path.iterdir()) == []


def test_a_conversation_is_read_back_and_goes_on(tmp_path: Path) -> None:
    session, path = tiny_session(), tmp_path / "chat.jsonl"
    with session.chat_encoder() as encoder:
        one, other = dialogue_of(session, encoder), dialogue_of(session, encoder)
        one.transcript.set_system("Be short.")
        list(one.say("Who is \N{DUCK}?"))
        SavedFiles().save(str(path), one.transcript.content(), one.transcript.suffixes)
        assert other.read(str(path)) == "1 turn"
        assert other.transcript.content() == one.transcript.content() == path.read_text()
        for dialogue in (one, other):
            list(dialogue.say("Why?"))
        assert other.transcript.content() == one.transcript.content()
        path.write_text('{"prompt": "Who?", "completion": "I."}\n')
        assert other.read(str(path)) == "1 turn" and json.loads(other.transcript.content())["messages"][1:] == [
            {"role": "assistant", "content": "I."}
        ]
        path.write_text('{"messages": [{"role": "user", "content": "Who?"}]}\n')
        assert other.read(str(path)) == "1 turn; the last message has no answer: /retry writes one"
        with pytest.raises(UsageError, match="the last message has no answer yet; write /retry"):
            other.say("Why?")
        list(other.retry())
        before = other.transcript.content()
        for content, message in (
            (ROW + ROW, "several conversations"), ("", "holds no conversation"), ("{", "JSON"), (ROW, "an empty list"),
            ('{"text": "a"}\n', "no "), ('{"messages": [{"role": "king", "content": "I"}]}\n', "role"),
        ):  # fmt: skip
            path.write_text(content)
            with pytest.raises(DataError, match=message):
                other.read(str(path))
        with pytest.raises(StorageError):
            other.read(str(tmp_path))
        assert other.transcript.content() == before


def test_a_text_is_read_back_and_goes_on(tmp_path: Path) -> None:
    session, path = tiny_session(""), tmp_path / "story.txt"
    one, other = dialogue_of(session, None), dialogue_of(session, None)
    list(one.say("It was a night"))
    SavedFiles().save(str(path), one.transcript.content(), one.transcript.suffixes)
    assert other.read(str(path)).endswith("characters, which an empty line continues")
    assert other.transcript.content() == one.transcript.content() == path.read_text()
    assert list(map("".join, (one.say(""), other.say("")))) == [one.last.text] * 2  # type: ignore[union-attr]
    path.write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="not UTF-8 at byte 3"):
        other.read(str(path))


@pytest.mark.slow
def test_finetune_learns_from_what_was_saved(tmp_path: Path) -> None:
    from command import gptcli

    session, paths = tiny_session(), [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    with session.chat_encoder() as encoder:
        dialogue = dialogue_of(session, encoder, SAMPLED)
        for path in paths:
            dialogue.reset()
            for text in ("Who?", "Why?"):
                list(dialogue.say(f"{text} {path.name}"))
            SavedFiles().save(str(path), dialogue.transcript.content(), dialogue.transcript.suffixes)
            assert dialogue.transcript.warning == ""
    base = write_base(tmp_path / "base", spare=2, context_length=256)
    done = gptcli("data", "inspect", *paths, "--model", base, "--json")
    assert done.returncode == 0, done.stderr
    (corpus,) = json.loads(done.stdout)["corpora"]
    assert corpus["rows"] == 2 and corpus["empty_answers"] == 0
