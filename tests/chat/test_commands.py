"""Commands that begin with a slash."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gptcli.chat.commands import COMMAND, Commands
from gptcli.chat.loop import respond
from gptcli.data.chat_encoder import ChatEncoder
from gptcli.errors import GptcliError, UsageError
from gptcli.generate.config import SamplingParams
from gptcli.session import Session
from tiny_chat import SAMPLED, dialogue_of, tiny_session


class Talk:
    """A chat whose notes are kept."""

    def __init__(self, session: Session, encoder: ChatEncoder | None) -> None:
        self.notes: list[str] = []
        self.dialogue = dialogue_of(session, encoder, SAMPLED, self.notes.append)
        self.commands = Commands(self.dialogue, self.notes.append)

    def type(self, text: str) -> str:
        """The reply, or what a command prints."""
        self.notes.clear()
        pieces = respond(self.dialogue, self.commands, text)
        return "\n".join(self.notes) if pieces is None else "".join(pieces)


@pytest.fixture(scope="module")
def session() -> Session:
    return tiny_session()


@pytest.fixture(scope="module")
def encoder(session: Session) -> Iterator[ChatEncoder]:
    with session.chat_encoder() as made:
        yield made


@pytest.fixture
def talk(session: Session, encoder: ChatEncoder) -> Talk:
    return Talk(session, encoder)


def test_every_setting_of_sampling_can_be_set_and_shown(talk: Talk) -> None:
    values = {
        "max_new_tokens": 7, "temperature": 0.5, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1,
        "presence_penalty": 0.2, "frequency_penalty": 0.3, "seed": 9, "overflow": "stop",
    }  # fmt: skip
    shown = talk.type("/set " + " ".join(f"{key}={value}" for key, value in values.items()))
    assert shown == ", ".join(f"{key}={value}" for key, value in values.items())
    assert talk.type('/set stop=["a b", "c"]') == "stop=['a b', 'c']" and talk.type("/set stop=x y") == "stop=['x y']"
    assert talk.type("/set logit_bias.13=-100") == "logit_bias={13: -100.0}"
    assert talk.type("/set top_k=none") == "top_k=none"
    wanted = {**values, "top_k": None, "stop": ("x y",), "logit_bias": {13: -100.0}}
    assert talk.dialogue.params == SamplingParams(**wanted)
    shown = talk.type("/set")
    assert {part.partition("=")[0] for part in shown.split(", ")} == set(SamplingParams.model_fields) - {"logprobs"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/set temperature=-1", "temperature: input should be greater than or equal to 0, not -1"),
        ("/set temprature=1", "unknown key 'temprature'; did you mean 'temperature'?"),
        ("/set temperature", "write a key and a value: /set temperature=0.7"),
        ("/set logprobs=3", "gptcli generate prints them with --json"),
        ("/set logit_bias.x=1", "logit_bias"),
        ("/quit", "there is no command /quit; write /exit"),
        ("/retyr", "write /retry"),
        ("/home/me/notes is a file", "or //home/me/notes for a message with a slash"),
        ("/undo 3", "/undo takes no argument"),
        ("/undo", "there is no turn to undo"),
        ("/retry", "there is no message to answer again"),
        ("/save", "/save needs a file; write /save chat.jsonl"),
        ("/save x.jsonl", "there is nothing to save yet"),
        ("/load", "/load needs a file"),
        ("/load nowhere.jsonl", "cannot read nowhere.jsonl: No such file or directory"),
    ],
)
def test_a_command_that_cannot_be_obeyed_is_one_line_and_changes_nothing(talk: Talk, text: str, message: str) -> None:
    with pytest.raises(GptcliError) as raised:
        talk.type(text)
    assert message in str(raised.value)
    assert talk.dialogue.params == SAMPLED and talk.dialogue.last is None


def test_commands_go_through_a_conversation(talk: Talk, tmp_path: Path) -> None:
    assert talk.type("/system Be short.") == "system message: Be short."
    first, second = talk.type("Who?"), talk.type("/retry")
    assert first != second
    usage = talk.type("/tokens")
    used = talk.dialogue.usage()
    assert usage.startswith(f"{used.used} tokens of a context of 96\n") and used.cached == used.prompt - 1
    assert f"{used.prompt} tokens, {used.cached} of them from the cache; the answer: {used.written} token" in usage
    path = tmp_path / "chat.jsonl"
    assert talk.type(f"/save {path}").startswith(f"saved to {path}")
    assert talk.type("/undo") == "removed: Who?" and talk.type("/system") == "system message: Be short."
    assert talk.type("/system none") == "system message: none"
    assert talk.type(f"/load {path}") == f"{path}: 1 turn"
    assert talk.dialogue.transcript.content() == path.read_text()
    assert talk.type("/reset") == "a new conversation" and talk.dialogue.transcript.system == "Be short."
    with pytest.raises(EOFError):
        talk.type("/exit")


def test_a_message_may_begin_with_a_slash_or_have_lines_that_do(talk: Talk) -> None:
    for text, message in (("//etc", "/etc"), ("/* one\n   two */", "/* one\n   two */")):
        talk.type("/reset")
        talk.type(text)
        assert talk.dialogue.undo() == message
    assert talk.type("/system One.\nTwo.") == "system message: One.\nTwo."


def test_an_empty_line_does_nothing_or_goes_on(talk: Talk) -> None:
    assert talk.type("") == "" and talk.dialogue.last is None
    talk.type("/set logit_bias={}")
    talk.type("/set max_new_tokens=3")
    talk.type("Who?")
    assert talk.dialogue.last is not None and talk.dialogue.last.end == "length"
    talk.type("")
    assert len(talk.dialogue.last.ids) == 6
    with pytest.raises(UsageError, match="reads no system message"):
        Talk(tiny_session(""), None).type("/system x")


@pytest.mark.parametrize("columns", [40, 100])
def test_the_help_lists_every_command_and_fits(talk: Talk, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptcli.chat.commands.terminal_columns", lambda: columns)
    lines = talk.type("/help").split("\n")
    assert {COMMAND.match(line)[1] for line in lines if line.startswith("/")} == set(talk.commands.by_name)  # type: ignore[index]
    assert max(map(len, lines[:-1])) <= max(columns, 60)
